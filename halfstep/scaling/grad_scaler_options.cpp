#include "halfstep/scaling/grad_scaler_options.h"

#include "halfstep/core/device.h"
#include "halfstep/core/error.h"
#include "halfstep/scaling/rank_agreement.h"

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

GradScalerOptions& GradScalerOptions::dynamic(bool value) {
  rule_.dynamic = value;
  return *this;
}

GradScalerOptions& GradScalerOptions::check_overflow(bool value) {
  check_overflow_ = value;
  return *this;
}

GradScalerOptions& GradScalerOptions::growth_factor(double value) {
  rule_.growth_factor = value;
  return *this;
}

GradScalerOptions& GradScalerOptions::backoff_factor(double value) {
  rule_.backoff_factor = value;
  return *this;
}

GradScalerOptions& GradScalerOptions::backoff_divides(bool value) {
  rule_.backoff_divides = value;
  return *this;
}

GradScalerOptions& GradScalerOptions::growth_interval(int64_t value) {
  rule_.growth_interval = value;
  return *this;
}

GradScalerOptions& GradScalerOptions::growth_count(GrowthCount value) {
  rule_.growth_count = value;
  return *this;
}

GradScalerOptions& GradScalerOptions::growth_offset(int64_t value) {
  rule_.growth_offset = value;
  return *this;
}

GradScalerOptions& GradScalerOptions::grow_only_if_finite(bool value) {
  rule_.grow_only_if_finite = value;
  return *this;
}

GradScalerOptions& GradScalerOptions::min_scale(double value) {
  rule_.min_scale = value;
  return *this;
}

GradScalerOptions& GradScalerOptions::max_scale(double value) {
  rule_.max_scale = value;
  return *this;
}

GradScalerOptions& GradScalerOptions::hysteresis(int64_t value) {
  rule_.hysteresis = value;
  return *this;
}

GradScalerOptions& GradScalerOptions::hysteresis_refill(HysteresisRefill value) {
  rule_.hysteresis_refill = value;
  return *this;
}

GradScalerOptions& GradScalerOptions::arithmetic(ScaleArithmetic value) {
  rule_.arithmetic = value;
  return *this;
}

GradScalerOptions& GradScalerOptions::at_min_scale(AtMinScale value) {
  at_min_scale_ = value;
  return *this;
}

GradScalerOptions& GradScalerOptions::min_scale_patience(int64_t value) {
  min_scale_patience_ = value;
  return *this;
}

GradScalerOptions& GradScalerOptions::process_group(
    const c10::intrusive_ptr<c10d::ProcessGroup>& group) {
  ranks_ = std::make_shared<const detail::RankAgreement>(group);
  return *this;
}

GradScalerOptions& GradScalerOptions::report_size(int64_t value) {
  report_size_ = value;
  return *this;
}

GradScalerOptions& GradScalerOptions::float16_gradients(bool value) {
  float16_gradients_ = value;
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
      "; use the one the model runs on: LibTorch has loss scaling kernels for these two");
  detail::check_scale(init_scale_, "init_scale", where);
  validate_rule(where);
  HALFSTEP_CHECK_USAGE(check_overflow_ || !rule_.dynamic, where,
                       "check_overflow must be true for a dynamic scale, but got false; a scale "
                       "moves by overflows: add dynamic(false) or leave the check on");
  HALFSTEP_CHECK_USAGE(min_scale_patience_ >= 1, where,
                       "min_scale_patience must be at least 1 overflow, but got ",
                       min_scale_patience_,
                       "; use 20 where single overflows at the minimum scale "
                       "are to be skipped");
  HALFSTEP_CHECK_USAGE(report_size_ >= 1 && report_size_ <= 65536, where,
                       "report_size must be from 1 to 65536 updates, but got ", report_size_,
                       "; use 16 unless you have a reason");
  HALFSTEP_CHECK_USAGE(check_overflow_ || at_min_scale_ == AtMinScale::keep_going, where,
                       "at_min_scale must be keep_going where nobody checks for overflows, but got "
                       "another policy; turn check_overflow on");
}

void GradScalerOptions::validate_rule(const char* where) const {
  detail::check_growth_factor(rule_.growth_factor, where);
  detail::check_backoff_factor(rule_.backoff_factor, where);
  detail::check_growth_interval(rule_.growth_interval, where);
  constexpr int64_t most = std::numeric_limits<int32_t>::max();
  HALFSTEP_CHECK_USAGE(rule_.growth_offset >= 0 && rule_.growth_offset <= most, where,
                       "growth_offset must be from 0 to 2147483647 updates, but got ",
                       rule_.growth_offset, "; use 0 unless you follow DeepSpeed, which has 1");
  HALFSTEP_CHECK_USAGE(rule_.growth_offset + rule_.growth_interval <= most, where,
                       "growth_offset and growth_interval together must be 2147483647 updates at "
                       "most, but got ",
                       rule_.growth_offset + rule_.growth_interval, "; lower one of them");
  HALFSTEP_CHECK_USAGE(rule_.hysteresis >= 1 && rule_.hysteresis <= most, where,
                       "hysteresis must be from 1 to 2147483647 overflows, but got ",
                       rule_.hysteresis, "; use 1 to back off at each one");
  HALFSTEP_CHECK_USAGE(rule_.max_scale > 0, where, "max_scale must be above 0, but got ",
                       rule_.max_scale, "; leave it out for none");
  HALFSTEP_CHECK_USAGE(rule_.min_scale >= 0 && rule_.min_scale <= rule_.max_scale, where,
                       "min_scale must be from 0 to max_scale ", rule_.max_scale, ", but got ",
                       rule_.min_scale, "; use 0 for none");
  HALFSTEP_CHECK_USAGE(rule_.min_scale <= init_scale_, where,
                       "min_scale must not be above init_scale ", init_scale_, ", but got ",
                       rule_.min_scale, "; an overflow would raise the scale");
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
