#pragma once
#include <string>

#include <ATen/core/Tensor.h>

#include <gtest/gtest.h>

namespace halfstep::testing {

/// Base of tests whose one body runs on CPU and on CUDA. A CUDA instance skips loudly where no GPU
/// is.
///
///   class Scaler : public halfstep::testing::DeviceTest {};
///   TEST_P(Scaler, Grows) { auto x = torch::ones({2}, device()); … }
///   HALFSTEP_ON_EACH_DEVICE(Scaler);
class DeviceTest : public ::testing::TestWithParam<c10::DeviceType> {
 protected:
  void SetUp() override;
  c10::Device device() const { return c10::Device(GetParam(), GetParam() == c10::kCUDA ? 0 : -1); }
};

/// Skips the calling test, saying so on standard error, unless `count` CUDA devices work.
#define HALFSTEP_REQUIRE_CUDA(count)                                         \
  if (!::halfstep::testing::has_cuda_devices(count))                         \
  GTEST_SKIP() << "SKIPPED, NOTHING WAS TESTED: this test needs " << (count) \
               << " working CUDA device(s)"

/// Skips the calling test likewise unless LSTM layers run in bfloat16 there.
#define HALFSTEP_REQUIRE_BFLOAT16_LSTM(device_type)         \
  if (!::halfstep::testing::has_bfloat16_lstm(device_type)) \
  GTEST_SKIP() << "SKIPPED, NOTHING WAS TESTED: this CPU has no LSTM in bfloat16"

/// Skips the calling test where CUDA is only pretended: it needs what is not, `what`.
#define HALFSTEP_REQUIRE_TRUE_CUDA(what)        \
  if (::halfstep::testing::cuda_is_pretended()) \
  GTEST_SKIP() << "SKIPPED, NOTHING WAS TESTED: the pretended CUDA has no " << (what)

bool has_cuda_devices(int count);
/// Whether the CUDA device that works here is that of tests/pretended_cuda.
bool& cuda_is_pretended();
/// Whether LSTM layers run in bfloat16 there: on a CPU that is oneDNN's to say.
bool has_bfloat16_lstm(c10::DeviceType device_type);
std::string device_param_name(const ::testing::TestParamInfo<c10::DeviceType>& info);

#define HALFSTEP_ON_EACH_DEVICE(Suite)                                          \
  INSTANTIATE_TEST_SUITE_P(On, Suite, ::testing::Values(c10::kCPU, c10::kCUDA), \
                           ::halfstep::testing::device_param_name)

}  // namespace halfstep::testing
