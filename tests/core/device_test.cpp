#include "halfstep/core/device.h"

#include "halfstep/core/cuda_info.h"
#include "halfstep/core/error.h"

#include <torch/cuda.h>

#include "tests/support/devices.h"
#include "tests/support/errors.h"

namespace halfstep {

TEST(Device, ParsesWords) {
  EXPECT_EQ(parse_device("cpu"), c10::Device(c10::kCPU));
  EXPECT_EQ(parse_device("auto").type(), cuda_works() ? c10::kCUDA : c10::kCPU);
}

TEST(Device, RefusesOtherWords) {
  for (const char* word : {"gpu", "", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "cudaa"})
    EXPECT_ERROR(parse_device(word), UsageError, "[device]", "auto, cpu, cuda or cuda:N", "but got",
                 "'auto' takes CUDA where it works");
}

TEST(Device, CudaThatDoesNotWorkSaysWhy) {
  if (cuda_works()) {
    EXPECT_ERROR(parse_device("cuda:99"), EnvironmentError, "must be one that works here",
                 "but got 'cuda:99'; use 'cuda:0'");
  } else {
    EXPECT_ERROR(parse_device("cuda"), EnvironmentError, "needs a working CUDA device",
                 "; use 'cpu' or 'auto'");
  }
}

TEST(Device, NamesTheCudaDevicesThereAre) {
  EXPECT_EQ(detail::cuda_device_words(1), "'cuda:0', the only one");
  EXPECT_EQ(detail::cuda_device_words(4), "'cuda:0' to 'cuda:3'");
}

TEST(Device, ABuildWithoutCudaDescribesNoCudaDevice) {
  if (torch::cuda::device_count() > 0) GTEST_SKIP() << "SKIPPED, NOTHING WAS TESTED: CUDA works";
  if (detail::why_no_cuda() != "this halfstep was built without CUDA")
    GTEST_SKIP() << "SKIPPED, NOTHING WAS TESTED: this is a build with CUDA";
  const c10::Device device(c10::kCUDA, 3);
  EXPECT_ERROR(describe_device(device), EnvironmentError, "[device] cuda:3 needs CUDA",
               "use 'cpu' or 'auto', or build with HALFSTEP_CUDA=ON");
  EXPECT_ERROR(detail::current_cuda_device_holds_bfloat16(), EnvironmentError,
               "bfloat16 on CUDA needs CUDA", "HALFSTEP_CUDA=ON");
}

TEST(Device, HoldsBfloat16WhereItsCapabilitySaysSo) {
  HALFSTEP_REQUIRE_CUDA(1);
  const auto name = detail::cuda_device_name(0);
  const auto major = std::stoi(name.substr(name.find("capability ") + 11));
  EXPECT_TRUE(detail::current_cuda_device_holds_bfloat16() || major < 8) << name;
}

TEST(Device, DescribesCpu) {
  EXPECT_THAT(describe_device(c10::kCPU), ::testing::HasSubstr("cpu ("));
}

TEST(Device, DescribesCuda) {
  HALFSTEP_REQUIRE_CUDA(1);
  EXPECT_THAT(describe_device(parse_device("cuda:0")), ::testing::HasSubstr("compute capability"));
}

}  // namespace halfstep
