#include "halfstep/train/files/safetensors.h"

#include "halfstep/core/error.h"

#include <cstdlib>

#include <ATen/ATen.h>

#include "tests/support/devices.h"
#include "tests/support/errors.h"
#include "tests/support/temp_folder.h"
#include "tests/support/tolerance.h"
#include <sys/stat.h>
#include <sys/wait.h>

namespace halfstep::train {
namespace {

using halfstep::testing::expect_same_bits;
using halfstep::testing::read_file;
using halfstep::testing::TempFolder;

const std::vector<c10::ScalarType> kDtypes{
    at::kDouble, at::kFloat,  at::kHalf,          at::kBFloat16,    at::kLong,
    at::kInt,    at::kShort,  at::kChar,          at::kByte,        at::kUInt16,
    at::kUInt32, at::kUInt64, at::kFloat8_e4m3fn, at::kFloat8_e5m2, at::kBool};

// One tensor of each dtype: 0, 1, 2, 3, 4 in it; named after the dtype as LibTorch prints it.
Safetensors one_of_each() {
  Safetensors content;
  for (const auto dtype : kDtypes)
    content.tensors[c10::toString(dtype)] = at::arange(5, at::kFloat).to(dtype);
  content.metadata = {{"greeting", "h\xc3\xa9llo"}};
  return content;
}

// Exit status of a command.
int run(const std::string& command) {
  const int status = std::system(command.c_str());
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

std::string script(const char* name) {
  const char* python = std::getenv("HALFSTEP_TEST_PYTHON");
  return std::string(python ? python : "python3") + " " + HALFSTEP_TEST_SOURCES "/" + name + " ";
}

constexpr int kModuleMissing = 77;

}  // namespace

class SafetensorsOnDevice : public halfstep::testing::DeviceTest {};

TEST_P(SafetensorsOnDevice, RoundTripIsBitExact) {
  const TempFolder folder;
  const auto file = folder.path() / "a.safetensors";
  Safetensors content = one_of_each();
  content.tensors["scalar"] = at::scalar_tensor(0.1, at::kDouble);
  content.tensors["empty"] = at::empty({0, 3});
  content.tensors["transposed"] = at::arange(6, at::kFloat).view({2, 3}).t();
  content.tensors["expanded"] = at::arange(3, at::kFloat).unsqueeze(0).expand({4, 3});
  content.tensors["grad"] = at::ones({2}).set_requires_grad(true);
  content.tensors["nan"] = at::full({2}, std::nan(""));
  for (auto& [name, tensor] : content.tensors) tensor = tensor.to(device());
  save_safetensors(file, content);
  const Safetensors read = load_safetensors(file);
  EXPECT_EQ(read.metadata, content.metadata);
  ASSERT_EQ(read.tensors.size(), content.tensors.size());
  for (const auto& [name, tensor] : content.tensors) {
    SCOPED_TRACE(name);
    EXPECT_FALSE(read.tensors.at(name).requires_grad());
    EXPECT_EQ(read.tensors.at(name).sizes(), tensor.sizes());
    EXPECT_EQ(read.tensors.at(name).scalar_type(), tensor.scalar_type());
    // View as bytes: not every dtype has the kernels a comparison needs.
    if (tensor.numel() > 0)
      expect_same_bits(read.tensors.at(name).reshape({-1}).view(at::kByte),
                       tensor.detach().cpu().reshape({-1}).contiguous().view(at::kByte));
  }
}
HALFSTEP_ON_EACH_DEVICE(SafetensorsOnDevice);

TEST(Safetensors, EqualContentGivesEqualBytes) {
  const TempFolder folder;
  save_safetensors(folder.path() / "a", one_of_each());
  save_safetensors(folder.path() / "b", one_of_each());
  EXPECT_EQ(read_file(folder.path() / "a"), read_file(folder.path() / "b"));
  auto other = one_of_each();
  other.tensors.at("Float")[2] = 7;
  save_safetensors(folder.path() / "b", other);
  EXPECT_NE(read_file(folder.path() / "a"), read_file(folder.path() / "b"));
}

TEST(Safetensors, TakesAFileWithoutTensors) {
  const TempFolder folder;
  save_safetensors(folder.path() / "a", {});
  EXPECT_TRUE(load_safetensors(folder.path() / "a").tensors.empty());
}

TEST(Safetensors, RefusesTensorsTheFormatLacks) {
  const TempFolder folder;
  const auto file = folder.path() / "a";
  EXPECT_ERROR(save_safetensors(file, {{{"x", at::Tensor()}}, {}}), UsageError, "[safetensors] 'x'",
               "is undefined");
  EXPECT_ERROR(save_safetensors(file, {{{"x", at::eye(2).to_sparse()}}, {}}), UsageError,
               "is sparse");
  EXPECT_ERROR(save_safetensors(file, {{{"x", at::ones({2}, at::kComplexFloat)}}, {}}), UsageError,
               "must have a dtype of the format", "convert it");
  EXPECT_TRUE(folder.names().empty());
}

TEST(Safetensors, RefusesDamagedFiles) {
  const TempFolder folder;
  const auto file = folder.path() / "a";
  EXPECT_ERROR(load_safetensors(file), EnvironmentError, "No such file", "check the path");
  EXPECT_ERROR(load_safetensors(folder.path()), EnvironmentError, "is no regular file");
  ASSERT_EQ(::mkfifo((folder.path() / "pipe").c_str(), 0600), 0);
  EXPECT_ERROR(load_safetensors(folder.path() / "pipe"), EnvironmentError, "is no regular file");
  save_safetensors(file, one_of_each());
  const std::string bytes = read_file(file);
  for (const size_t size : {size_t{0}, size_t{4}, size_t{8}, size_t{100}, bytes.size() - 1}) {
    folder.write("cut", bytes.substr(0, size));
    EXPECT_ERROR(load_safetensors(folder.path() / "cut"), EnvironmentError, "cut", "get it again");
  }
  folder.write("long", bytes + "x");
  EXPECT_ERROR(load_safetensors(folder.path() / "long"), EnvironmentError, "the file has");
}

TEST(Safetensors, AsksForNoMemoryAHeaderOnlyClaims) {
  const TempFolder folder;
  const std::string json =
      R"({"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}})";
  std::string bytes(8, '\0');
  bytes[0] = static_cast<char>(json.size());
  const auto file = folder.write("a", bytes + json);
  EXPECT_ERROR(load_safetensors(file), EnvironmentError, "must have 4000000000000 bytes",
               "it was cut off");
}

TEST(SafetensorsPython, PlainPythonReadsAndWritesTheFormat) {
  const TempFolder folder;
  save_safetensors(folder.path() / "ours", one_of_each());
  const int status = run(script("plain_safetensors.py") + folder.path().string());
  if (status == 127) GTEST_SKIP() << "SKIPPED, NOTHING WAS TESTED: no python3";
  ASSERT_EQ(status, 0);
  const Safetensors theirs = load_safetensors(folder.path() / "theirs");
  EXPECT_EQ(theirs.metadata.at("from"), "python");
  expect_same_bits(theirs.tensors.at("f32"), at::tensor({1.5f, -2.0f}).view({2, 1}));
  expect_same_bits(theirs.tensors.at("i64"), at::tensor({int64_t{1} << 40}));
}

TEST(SafetensorsPython, TheSafetensorsPackageReadsAndWritesTheSame) {
  const TempFolder folder;
  save_safetensors(folder.path() / "ours", one_of_each());
  const int status = run(script("package_safetensors.py") + folder.path().string());
  if (status == kModuleMissing || status == 127)
    GTEST_SKIP() << "SKIPPED, NOTHING WAS TESTED: this needs a python with torch and safetensors; "
                    "name one in HALFSTEP_TEST_PYTHON";
  ASSERT_EQ(status, 0);
  const Safetensors theirs = load_safetensors(folder.path() / "theirs");
  EXPECT_EQ(theirs.metadata, one_of_each().metadata);
  ASSERT_EQ(theirs.tensors.size(), kDtypes.size());
  for (const auto& [name, tensor] : one_of_each().tensors)
    expect_same_bits(theirs.tensors.at(name).view(at::kByte), tensor.view(at::kByte));
}

}  // namespace halfstep::train
