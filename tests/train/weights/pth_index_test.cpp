#include "halfstep/train/weights/pth_index.h"

#include "halfstep/core/error.h"

#include "tests/support/errors.h"
#include "tests/train/weights/zip_bytes.h"

namespace halfstep::train {
namespace {

using halfstep::testing::little;
using ::testing::ElementsAre;

std::string text(const std::string& value) {
  return "X" + little(value.size(), 4) + value;
}
std::string number(int64_t value) {
  return "\x8a\x08" + little(static_cast<uint64_t>(value), 8);
}
std::string tuple(const std::vector<int64_t>& values) {
  std::string result = "(";
  for (const auto value : values) result += number(value);
  return result + "t";
}

struct TensorPickle {
  std::string storage = "FloatStorage";
  std::string key = "0";
  int64_t numel = 12;
  int64_t offset = 0;
  std::vector<int64_t> shape{3, 4};
  std::vector<int64_t> strides{4, 1};
  std::string more = "";

  std::string bytes() const {
    return "ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage") + "ctorch\n" + storage + "\n" +
           text(key) + text("cpu") + number(numel) + "tQ" + number(offset) + tuple(shape) +
           tuple(strides) + "\x89" + "ccollections\nOrderedDict\n)R" + more + "tR";
  }
};

std::string dict(const std::vector<std::pair<std::string, std::string>>& items) {
  std::string result = "}(";
  for (const auto& [key, value] : items) result += text(key) + value;
  return result + "u";
}

// Of a file with one storage, data/0, of 48 bytes.
PthIndex read_index(const std::string& body, const std::string& key = "") {
  const auto size = [](const std::string& name) {
    return name == "0" ? std::optional<uint64_t>(48) : std::nullopt;
  };
  return read_state_dict("\x80\x02" + body + ".", key, size, "input");
}
PthIndex read_index(const TensorPickle& tensor) {
  return read_index(dict({{"w", tensor.bytes()}}));
}
std::string names(const PthIndex& index) {
  std::string result;
  for (const auto& tensor : index.tensors) result += tensor.name + " ";
  return result;
}

constexpr int64_t kLarge = int64_t{1} << 62;

}  // namespace

TEST(PthIndex, SaysWhereATensorLies) {
  const auto index = read_index(TensorPickle{.offset = 1, .shape = {2, 2}, .strides = {1, 5}});
  ASSERT_EQ(index.tensors.size(), 1u);
  const auto& tensor = index.tensors.front();
  EXPECT_EQ(tensor.name, "w");
  EXPECT_EQ(tensor.dtype, SafetensorsDtype::F32);
  EXPECT_EQ(tensor.storage, "0");
  EXPECT_EQ(tensor.offset, 1u);
  EXPECT_THAT(tensor.shape, ElementsAre(2, 2));
  EXPECT_THAT(tensor.strides, ElementsAre(1, 5));
}

TEST(PthIndex, RefusesATensorThatReachesOutOfItsStorage) {
  EXPECT_NO_THROW(read_index(TensorPickle{.shape = {0, 3}, .strides = {3, 1}}));
  EXPECT_NO_THROW(read_index(TensorPickle{.offset = 11, .shape = {}, .strides = {}}));
  EXPECT_NO_THROW(read_index(TensorPickle{.shape = {5, 1}, .strides = {0, 99}}));
  for (const auto& [tensor, rule] : std::initializer_list<std::pair<TensorPickle, const char*>>{
           {{.shape = {3, 5}}, "'w' must lie in its storage of 12 elements"},
           {{.offset = 1}, "must lie in its storage"},
           {{.offset = 13, .shape = {0}, .strides = {1}}, "must lie in its storage"},
           {{.offset = 12, .shape = {}, .strides = {}}, "must lie in its storage"},
           {{.strides = {4}}, "must lie in its storage"},
           {{.strides = {kLarge, kLarge}}, "must lie in its storage"},
           {{.shape = {kLarge, kLarge}, .strides = {0, 0}}, "must lie in its storage"},
           {{.shape = {0, kLarge, kLarge}, .strides = {0, 0, 0}}, "must lie in its storage"},
           {{.strides = {-1, 1}}, "must be whole numbers from 0 on"},
           {{.offset = -1}, "must be whole numbers from 0 on"},
           {{.numel = 13}, "must have 13 elements, but has only 48 bytes"},
           {{.storage = "DoubleStorage"}, "must have 12 elements, but has only 48 bytes"},
           {{.key = "1"}, "must be in the file, but there is no data/1"}})
    EXPECT_ERROR(read_index(tensor), EnvironmentError, "[pth] input: ", rule, "get it again");
  EXPECT_ERROR(read_index(TensorPickle{.storage = "ComplexFloatStorage"}), EnvironmentError,
               "'torch.ComplexFloatStorage'");
  EXPECT_ERROR(read_index(TensorPickle{.more = dict({{"neg", "\x88"}})}), EnvironmentError,
               "is a negated or conjugated view", "clone()");
}

TEST(PthIndex, FindsTheStateDict) {
  const auto w = TensorPickle{}.bytes();
  const auto state = dict({{"w", w}, {"n", number(1)}});
  EXPECT_EQ(names(read_index(state)), "w ");
  EXPECT_THAT(read_index(state).others, ElementsAre("n"));
  EXPECT_EQ(names(read_index(dict({{"step", w}, {"state_dict", state}}))), "w ");
  EXPECT_EQ(names(read_index(dict({{"model", dict({{"state_dict", state}})}}))), "w ");
  EXPECT_EQ(names(read_index(dict({{"mine", state}, {"epoch", number(1)}}))), "w ");
  const auto two = dict({{"a", state}, {"b", dict({{"v", w}})}});
  EXPECT_EQ(names(read_index(two, "b")), "v ");
  EXPECT_ERROR(read_index(two), UsageError, "or its key must be said, but its keys are a, b",
               "LoadWeightsOptions::key");
  EXPECT_ERROR(read_index(two, "c"), UsageError, "under the key 'c', but its keys are a, b");
  EXPECT_ERROR(read_index(dict({{"epoch", number(1)}})), UsageError, "must hold tensors",
               "its keys are epoch", "torch.save(model.state_dict(), FILE)");
  EXPECT_ERROR(read_index(w), EnvironmentError, "must hold a dict of tensors, but holds no dict");
  EXPECT_ERROR(read_index(dict({{"w", w}, {"w", w}})), EnvironmentError, "'w' is given twice");
}

TEST(PthIndex, ReadsParametersAndSizes) {
  const auto parameter =
      "ctorch._utils\n_rebuild_parameter\n(" + TensorPickle{}.bytes() + "\x88" + "NtR";
  EXPECT_EQ(names(read_index(dict({{"p", parameter}}))), "p ");
  EXPECT_ERROR(read_index(dict({{"p", "ctorch._utils\n_rebuild_parameter\nN\x85R"}})),
               EnvironmentError, "a parameter must be a tensor");
  EXPECT_ERROR(read_index(dict({{"p", "ctorch._utils\n_rebuild_tensor_v2\nN\x85R"}})),
               EnvironmentError, "must have storage, offset, shape and strides");
}

TEST(PthIndex, RefusesArchivesOfOtherKinds) {
  const auto root = [](std::map<std::string, ZipEntry> entries) {
    return pth_root(entries, "input");
  };
  EXPECT_EQ(root({{"a/data.pkl", {}}, {"a/b/data.pkl", {}}}), "a");
  EXPECT_ERROR(root({{"a/b/data.pkl", {}}}), EnvironmentError, "must hold a data.pkl");
  EXPECT_ERROR(root({{"a/data.pkl", {}}, {"a/constants.pkl", {}}}), EnvironmentError,
               "is a TorchScript program");
  const std::map<std::string, ZipEntry> big{{"a/data.pkl", {0, 3, 0}}, {"a/byteorder", {0, 3, 0}}};
  EXPECT_ERROR(read_pth_index("input", big, "", [](const auto&) { return "big"; }),
               EnvironmentError, "must hold little-endian data");
}

}  // namespace halfstep::train
