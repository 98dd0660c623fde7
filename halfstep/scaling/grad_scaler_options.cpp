#include "halfstep/scaling/grad_scaler_options.h"

#include "halfstep/core/device.h"
#include "halfstep/core/error.h"

#include <cmath>
#include <limits>

namespace halfstep {

GradScalerOptions::GradScalerOptions()
    : GradScalerOptions(cuda_works() ? c10::DeviceType::CUDA : c10::DeviceType::CPU) {}

GradScalerOptions& GradScalerOptions::device_type(c10::DeviceType value) {
  device_type_ = value;
  return *this;
}

GradScalerOptions& GradScalerOptions::init_scale(double value) {
  init_scale_ = value;
  return *this;
}

GradScalerOptions& GradScalerOptions::growth_factor(double value) {
  growth_factor_ = value;
  return *this;
}

GradScalerOptions& GradScalerOptions::backoff_factor(double value) {
  backoff_factor_ = value;
  return *this;
}

GradScalerOptions& GradScalerOptions::growth_interval(int64_t value) {
  growth_interval_ = value;
  return *this;
}

GradScalerOptions& GradScalerOptions::enabled(bool value) {
  enabled_ = value;
  return *this;
}

void GradScalerOptions::validate() const {
  constexpr const char* where = "GradScalerOptions";
  HALFSTEP_CHECK_USAGE(
      device_type_ == c10::DeviceType::CPU || device_type_ == c10::DeviceType::CUDA, where,
      "device_type must be kCPU or kCUDA, but got ", c10::DeviceTypeName(device_type_, true),
      "; LibTorch has the loss scaling kernels for these two");
  detail::check_scale(init_scale_, "init_scale", where);
  detail::check_growth_factor(growth_factor_, where);
  detail::check_backoff_factor(backoff_factor_, where);
  detail::check_growth_interval(growth_interval_, where);
}

namespace detail {

void check_scale(double value, const char* name, const char* where) {
  const auto rounded = static_cast<float>(value);
  HALFSTEP_CHECK_USAGE(std::isfinite(rounded) && rounded > 0, where, name,
                       " must be above 0 and finite in float32, but got ", value,
                       "; a power of two such as 65536 loses no bits");
}

void check_growth_factor(double value, const char* where) {
  HALFSTEP_CHECK_USAGE(std::isfinite(value) && value > 1, where,
                       "growth_factor must be above 1 and finite, but got ", value,
                       "; use 2.0 unless you have a reason");
}

void check_backoff_factor(double value, const char* where) {
  HALFSTEP_CHECK_USAGE(value > 0 && value < 1, where,
                       "backoff_factor must be above 0 and below 1, but got ", value,
                       "; use 0.5 unless you have a reason");
}

void check_growth_interval(int64_t value, const char* where) {
  HALFSTEP_CHECK_USAGE(value >= 1 && value <= std::numeric_limits<int32_t>::max(), where,
                       "growth_interval must be from 1 to 2147483647 updates, but got ", value,
                       "; use 2000 unless you have a reason");
}

}  // namespace detail

}  // namespace halfstep
