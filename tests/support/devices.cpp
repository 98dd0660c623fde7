#include "tests/support/devices.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>
#include <torch/cuda.h>

namespace halfstep::testing {

bool has_cuda_devices(int count) {
  return static_cast<int>(torch::cuda::device_count()) >= count;
}

bool& cuda_is_pretended() {
  static bool pretended = false;
  return pretended;
}

bool has_bfloat16_lstm(c10::DeviceType device_type) {
  if (device_type != c10::kCPU) return true;
  torch::jit::Stack supported;
  c10::Dispatcher::singleton()
      .findSchemaOrThrow("mkldnn::_is_mkldnn_bf16_supported", "")
      .callBoxed(supported);
  return supported.at(0).toBool();
}

void DeviceTest::SetUp() {
  if (GetParam() == c10::kCUDA) HALFSTEP_REQUIRE_CUDA(1);
}

std::string device_param_name(const ::testing::TestParamInfo<c10::DeviceType>& info) {
  return info.param == c10::kCUDA ? "CUDA" : "CPU";
}

}  // namespace halfstep::testing
