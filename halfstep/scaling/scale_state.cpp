#include "halfstep/scaling/scale_state.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/_amp_update_scale.h>
#include <ATen/ops/full.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/where.h>
#include <c10/core/InferenceMode.h>

namespace halfstep::detail {

namespace {

template <class T>
T& on_host(const at::Tensor& tensor) {
  return *tensor.mutable_data_ptr<T>();
}

/// Syncs with a GPU.
template <class T>
T read(const at::Tensor& tensor) {
  return tensor.is_cpu() ? *tensor.const_data_ptr<T>() : tensor.item<T>();
}

}  // namespace

void ScaleState::materialize(const ScaleRule& rule, c10::Device device, bool watch) {
  if (defined()) return;
  // Updates change them in place later, which inference tensors don't allow.
  const c10::InferenceMode normal_mode(false);
  const auto options = at::TensorOptions().device(device);
  const auto ints = options.dtype(c10::kInt);
  scale_ = at::full({}, start_.scale, options.dtype(c10::kFloat));
  if (rule.arithmetic == ScaleArithmetic::float64)
    exact_scale_ = at::full({}, start_.scale, options.dtype(c10::kDouble));
  growth_tracker_ = at::full({}, start_.growth_tracker, ints);
  hysteresis_tracker_ = at::full({}, start_.hysteresis_tracker, ints);
  if (watch) stuck_ = at::full({}, start_.stuck, ints);
}

void ScaleState::update(const ScaleRule& rule, const at::Tensor& found_inf) {
  if (is_torch_rule(rule)) {
    update_by_kernel(rule, found_inf);
  } else if (scale_.is_cpu()) {
    update_on_host(rule, found_inf);
  } else {
    update_by_operations(rule, found_inf);
  }
}

void ScaleState::update_by_kernel(const ScaleRule& rule, const at::Tensor& found_inf) {
  const auto before = stuck_.defined() ? scale_.clone() : at::Tensor();
  at::_amp_update_scale_(scale_, growth_tracker_, found_inf, rule.growth_factor,
                         rule.backoff_factor, rule.growth_interval);
  if (!stuck_.defined()) return;
  const auto stuck_now = (scale_ == before).logical_or_(scale_ < kLeastUsefulScale);
  stuck_.copy_((stuck_ + 1) * stuck_now.logical_and_(found_inf != 0));
}

void ScaleState::update_on_host(const ScaleRule& rule, const at::Tensor& found_inf) {
  ScaleValues now = values();
  apply_rule(rule, now, *found_inf.const_data_ptr<float>() != 0);
  on_host<float>(scale_) = static_cast<float>(now.scale);
  if (exact_scale_.defined()) on_host<double>(exact_scale_) = now.scale;
  on_host<int32_t>(growth_tracker_) = now.growth_tracker;
  on_host<int32_t>(hysteresis_tracker_) = now.hysteresis_tracker;
  if (stuck_.defined()) on_host<int32_t>(stuck_) = now.stuck;
}

void ScaleState::update_by_operations(const ScaleRule& rule, const at::Tensor& found_inf) {
  const auto overflow = found_inf != 0;
  if (!rule.dynamic) {
    if (stuck_.defined()) stuck_.copy_((stuck_ + 1) * overflow);
    return;
  }
  const auto kept = exact();
  const auto factors = kept.options().dtype(
      rule.arithmetic == ScaleArithmetic::float32 ? c10::kFloat : c10::kDouble);
  // As tensors: a GPU divides by a number by multiplying with its reciprocal.
  const auto factor = [&](double value) { return at::full({}, value, factors); };
  const auto from = kept.to(factors.dtype().toScalarType());

  const auto clean = overflow.logical_not();
  const auto absorbed = overflow.logical_and(hysteresis_tracker_ > 1);
  const auto backs_off = overflow.logical_and(absorbed.logical_not());
  const auto lower = (rule.backoff_divides ? from / factor(rule.growth_factor)
                                           : from * factor(rule.backoff_factor))
                         .clamp_min(factor(rule.min_scale))
                         .to(kept.scalar_type());

  auto tracker = (growth_tracker_ + 1) * clean;
  const auto counted = tracker - rule.growth_offset;
  const auto grows = rule.growth_count == GrowthCount::since_overflow
                         ? (counted > 0).logical_and_(counted.remainder(rule.growth_interval) == 0)
                         : (counted >= rule.growth_interval).logical_and_(clean);
  auto higher =
      (from * factor(rule.growth_factor)).clamp_max(factor(rule.max_scale)).to(kept.scalar_type());
  if (rule.grow_only_if_finite) higher = at::where(at::isfinite(higher), higher, kept);
  if (rule.growth_count == GrowthCount::since_growth)
    tracker = at::where(grows, rule.growth_offset, tracker);

  if (stuck_.defined()) {
    const auto stuck_now = (lower == kept).logical_or_(lower < kLeastUsefulScale);
    const auto after_backoff = (stuck_ + 1) * stuck_now;
    stuck_.copy_(at::where(backs_off, after_backoff, stuck_ * absorbed));
  }
  const bool refilled_by_growth = rule.hysteresis_refill == HysteresisRefill::on_growth;
  hysteresis_tracker_.copy_(at::where(refilled_by_growth ? grows : clean, rule.hysteresis,
                                      hysteresis_tracker_ - absorbed.to(c10::kInt)));
  growth_tracker_.copy_(tracker);
  kept.copy_(at::where(backs_off, lower, at::where(grows, higher, kept)));
  if (exact_scale_.defined()) scale_.copy_(exact_scale_);
}

void ScaleState::assign(double scale) {
  scale_.fill_(scale);
  if (exact_scale_.defined()) exact_scale_.fill_(scale);
}

void ScaleState::assign(const at::Tensor& scale) {
  scale_.copy_(scale);
  if (exact_scale_.defined()) exact_scale_.copy_(scale);
}

void ScaleState::restore(const ScaleValues& values) {
  start_ = values;
  if (!defined()) return;
  assign(values.scale);
  growth_tracker_.fill_(values.growth_tracker);
  hysteresis_tracker_.fill_(values.hysteresis_tracker);
  if (stuck_.defined()) stuck_.fill_(values.stuck);
}

void ScaleState::clamp_growth_tracker(const ScaleRule& rule) {
  start_.growth_tracker =
      static_cast<int32_t>(detail::clamp_growth_tracker(rule, start_.growth_tracker));
  if (defined() && rule.growth_count == GrowthCount::since_growth)
    growth_tracker_.clamp_max_(rule.growth_offset + rule.growth_interval - 1);
}

ScaleValues ScaleState::values() const {
  if (!defined()) return start_;
  ScaleValues now;
  now.scale = exact_scale_.defined() ? read<double>(exact_scale_) : read<float>(scale_);
  now.growth_tracker = read<int32_t>(growth_tracker_);
  now.hysteresis_tracker = read<int32_t>(hysteresis_tracker_);
  if (stuck_.defined()) now.stuck = read<int32_t>(stuck_);
  return now;
}

}  // namespace halfstep::detail
