#include "halfstep/train/weights/pth_file.h"

#include "halfstep/core/error.h"

#include <cstdlib>

#include <ATen/ATen.h>

#include "tests/support/errors.h"
#include "tests/support/temp_folder.h"
#include "tests/support/tolerance.h"
#include <sys/wait.h>

namespace halfstep::train {
namespace {

using halfstep::testing::expect_same_bits;
using halfstep::testing::read_file;
using halfstep::testing::TempFolder;
using ::testing::ElementsAre;

std::filesystem::path golden(const std::string& name) {
  return std::filesystem::path(HALFSTEP_TEST_SOURCES "/golden") / (name + ".pth");
}

// 0, 1/8, 2/8 … in a shape, as scripts/golden/pth_files.py has it.
at::Tensor counted(at::IntArrayRef shape, c10::ScalarType dtype = at::kFloat) {
  return (at::arange(c10::multiply_integers(shape), at::kDouble) / 8).to(dtype).view(shape);
}

int run(const std::string& command) {
  const int status = std::system(command.c_str());
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

// What tests/train/weights/write_pth.py writes.
void expect_written_by_python(const std::filesystem::path& file) {
  const auto content = load_pth(file);
  ASSERT_EQ(content.tensors.size(), 2u);
  expect_same_bits(content.tensors.at("w"), at::tensor({0.5f, 1.5f, 2.5f, -3.0f}).view({2, 2}));
  expect_same_bits(content.tensors.at("n"), at::tensor({int64_t{7}, int64_t{8}}));
}

}  // namespace

TEST(PthFile, ReadsWhatTorchSaves) {
  for (const char* name : {"state_dict", "protocol_4"}) {
    SCOPED_TRACE(name);
    EXPECT_TRUE(is_pth(golden(name)));
    const auto content = load_pth(golden(name));
    EXPECT_THAT(content.others, ElementsAre());
    ASSERT_EQ(content.tensors.size(), 9u);
    expect_same_bits(content.tensors.at("0.weight"), counted({3, 4}));
    expect_same_bits(content.tensors.at("1.running_var"), counted({3}));
    expect_same_bits(content.tensors.at("1.num_batches_tracked"), at::scalar_tensor(7, at::kLong));
    expect_same_bits(content.tensors.at("2.bias"), counted({2}));
  }
}

TEST(PthFile, ReadsEveryDtypeAndView) {
  const auto content = load_pth(golden("tensors"));
  EXPECT_THAT(content.others, ElementsAre("extra"));
  ASSERT_EQ(content.tensors.size(), 17u);
  const auto& tensors = content.tensors;
  for (const auto& [name, dtype] :
       std::initializer_list<std::pair<const char*, c10::ScalarType>>{{"double", at::kDouble},
                                                                      {"float", at::kFloat},
                                                                      {"half", at::kHalf},
                                                                      {"bfloat16", at::kBFloat16}})
    expect_same_bits(tensors.at(name), counted({2, 3}, dtype));
  expect_same_bits(tensors.at("long"), at::tensor({int64_t{1}, -(int64_t{1} << 40)}));
  for (const auto& [name, dtype] : std::initializer_list<std::pair<const char*, c10::ScalarType>>{
           {"int", at::kInt}, {"short", at::kShort}, {"char", at::kChar}})
    expect_same_bits(tensors.at(name), at::tensor({1, -2}, dtype));
  expect_same_bits(tensors.at("byte"), at::tensor({1, 255}, at::kByte));
  expect_same_bits(tensors.at("bool"), at::tensor({1, 0}).to(at::kBool));
  expect_same_bits(tensors.at("scalar"), at::scalar_tensor(0.375));
  EXPECT_EQ(tensors.at("empty").sizes(), (std::vector<int64_t>{0, 3}));
  expect_same_bits(tensors.at("transposed").contiguous(), counted({2, 3}).t().contiguous());
  expect_same_bits(tensors.at("expanded").contiguous(), counted({3}).expand({2, 3}).contiguous());
  expect_same_bits(tensors.at("first"), counted({12}).narrow(0, 0, 4));
  expect_same_bits(tensors.at("rest"), counted({12}).narrow(0, 4, 8).view({2, 4}));
  expect_same_bits(tensors.at("parameter"), counted({2}));
  EXPECT_FALSE(tensors.at("parameter").requires_grad());
  // Ones that shared memory there share it here.
  EXPECT_EQ(static_cast<const float*>(tensors.at("first").const_data_ptr()) + 4,
            static_cast<const float*>(tensors.at("rest").const_data_ptr()));
}

TEST(PthFile, FindsTheWeightsAmongTheRestOfATrainingLoop) {
  const auto content = load_pth(golden("training"));
  ASSERT_EQ(content.tensors.size(), 9u);
  expect_same_bits(content.tensors.at("module.0.weight"), counted({3, 4}, at::kHalf));
  const auto generator = load_pth(golden("two_networks"), "generator");
  EXPECT_EQ(generator.tensors.size(), 9u);
  EXPECT_ERROR(load_pth(golden("two_networks")), UsageError,
               "its keys are generator, discriminator");
}

TEST(PthFile, ExecutesNothingAndNamesWhatItRefuses) {
  EXPECT_ERROR(load_pth(golden("whole_module")), EnvironmentError, "[pickle]",
               "'torch.nn.modules.container.Sequential', which could run code");
  EXPECT_ERROR(load_pth(golden("sparse")), EnvironmentError,
               "'torch._utils._rebuild_sparse_tensor'");
  EXPECT_ERROR(load_pth(golden("complex")), EnvironmentError, "'torch.ComplexFloatStorage'");
  EXPECT_ERROR(is_pth(golden("old_format")), EnvironmentError,
               "must be as torch.save has written it since PyTorch 1.6, but is older");
}

TEST(PthFile, EveryCutAndEveryChangedByteIsSeenOrHarmless) {
  const TempFolder folder;
  const auto bytes = read_file(golden("tensors"));
  const auto whole = load_pth(golden("tensors"));
  for (size_t size = 0; size < bytes.size(); size += 29) {
    const auto file = folder.write("cut.pth", bytes.substr(0, size));
    EXPECT_ERROR(load_pth(file), EnvironmentError, "cut.pth");
  }
  size_t seen = 0;
  for (size_t at = 0; at < bytes.size(); at += 11) {
    auto damaged = bytes;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x41);
    const auto file = folder.write("damaged.pth", damaged);
    try {
      const auto content = load_pth(file);
      // Padding, dates and the like: the values are still right.
      ASSERT_EQ(content.tensors.size(), whole.tensors.size());
      for (const auto& [name, tensor] : whole.tensors)
        expect_same_bits(content.tensors.at(name).contiguous(), tensor.contiguous());
    } catch (const Error&) {
      ++seen;
    }
  }
  EXPECT_GT(seen, bytes.size() / 11 / 4);
}

TEST(PthFile, AFileThatIsNoneIsNamed) {
  const TempFolder folder;
  EXPECT_ERROR(is_pth(folder.path() / "x.pth"), EnvironmentError, "x.pth", "No such file");
  EXPECT_ERROR(load_pth(folder.write("x.pth", "PK\x03\x04 and more that is no archive")),
               EnvironmentError, "[zip]", "x.pth", "must end with its directory");
  EXPECT_FALSE(is_pth(folder.write("y", "")));
}

TEST(PthFilePython, ReadsWhatPlainPythonWrites) {
  const TempFolder folder;
  const auto file = folder.path() / "plain.pth";
  const int status =
      run("python3 " HALFSTEP_TEST_SOURCES "/write_pth.py " + file.string() + " --plain");
  if (status == 127) GTEST_SKIP() << "SKIPPED, NOTHING WAS TESTED: no python3";
  ASSERT_EQ(status, 0);
  expect_written_by_python(file);
}

TEST(PthFilePython, ReadsWhatTorchWritesNow) {
  const TempFolder folder;
  const auto file = folder.path() / "torch.pth";
  const char* python = std::getenv("HALFSTEP_TEST_PYTHON");
  const int status = run(std::string(python ? python : "python3") +
                         " " HALFSTEP_TEST_SOURCES "/write_pth.py " + file.string());
  if (status == 77 || status == 127)
    GTEST_SKIP() << "SKIPPED, NOTHING WAS TESTED: this needs a python with torch; name one in "
                    "HALFSTEP_TEST_PYTHON";
  ASSERT_EQ(status, 0);
  expect_written_by_python(file);
}

}  // namespace halfstep::train
