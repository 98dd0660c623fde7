#include "halfstep/core/device.h"

#include "halfstep/core/error.h"

#include "tests/support/devices.h"
#include "tests/support/errors.h"

namespace halfstep {

TEST(Device, ParsesWords) {
  EXPECT_EQ(parse_device("cpu"), c10::Device(c10::kCPU));
  EXPECT_EQ(parse_device("auto").type(), cuda_works() ? c10::kCUDA : c10::kCPU);
}

TEST(Device, RefusesOtherWords) {
  for (const char* word : {"gpu", "", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "cudaa"})
    EXPECT_ERROR(parse_device(word), UsageError, "[device]", "auto, cpu, cuda or cuda:N",
                 "but got");
}

TEST(Device, CudaThatDoesNotWorkSaysWhy) {
  if (cuda_works()) {
    EXPECT_ERROR(parse_device("cuda:99"), EnvironmentError, "CUDA devices", "no such device");
  } else {
    EXPECT_ERROR(parse_device("cuda"), EnvironmentError, "needs a working CUDA device",
                 "use --device cpu or auto");
  }
}

TEST(Device, DescribesCpu) {
  EXPECT_THAT(describe_device(c10::kCPU), ::testing::HasSubstr("cpu ("));
}

TEST(Device, DescribesCuda) {
  HALFSTEP_REQUIRE_CUDA(1);
  EXPECT_THAT(describe_device(parse_device("cuda:0")), ::testing::HasSubstr("compute capability"));
}

}  // namespace halfstep
