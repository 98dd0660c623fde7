#include "tests/support/devices.h"

#include <torch/cuda.h>

namespace halfstep::testing {

bool has_cuda_devices(int count) {
  return static_cast<int>(torch::cuda::device_count()) >= count;
}

void DeviceTest::SetUp() {
  if (GetParam() == c10::kCUDA) HALFSTEP_REQUIRE_CUDA(1);
}

std::string device_param_name(const ::testing::TestParamInfo<c10::DeviceType>& info) {
  return info.param == c10::kCUDA ? "CUDA" : "CPU";
}

}  // namespace halfstep::testing
