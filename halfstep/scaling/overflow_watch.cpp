#include "halfstep/scaling/overflow_watch.h"

#include "halfstep/scaling/device_copies.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros_like.h>

namespace halfstep::detail {

namespace {

constexpr int kUpdatesToWait = 8;

/// The number of optimizers whose step was skipped.
at::Tensor count_skipped(const std::vector<CheckedOptimizer>& optimizers,
                         const at::Tensor& found_inf) {
  // The usual case: one flag, 0 or 1, on one device.
  if (optimizers.size() == 1 && optimizers[0].stepped && optimizers[0].found_infs->size() == 1)
    return found_inf;
  auto skipped = at::zeros_like(found_inf);
  for (const auto& checked : optimizers)
    if (checked.stepped && checked.found_inf.defined()) skipped += checked.found_inf != 0;
  return skipped;
}

}  // namespace

OverflowLog::ScaleBefore OverflowWatch::begin_update(const ScaleState& scale) {
  return log_.begin_update(scale.exact());
}

at::Tensor OverflowWatch::mask_of(const std::vector<CheckedOptimizer>& optimizers,
                                  const at::Tensor& found_inf) {
  at::Tensor mask;
  for (const auto& checked : optimizers) {
    for (const auto& [device, flag] : *checked.found_infs) {
      const double bit = log_.bit_of({checked.number, device});
      const auto here = to_device(flag, found_inf.device());
      const auto part = bit == 1.0 ? here : here.to(c10::kDouble) * bit;
      mask = mask.defined() ? mask + part : part;
    }
  }
  return mask.defined() ? mask : at::zeros_like(found_inf);
}

void OverflowWatch::end_update(const OverflowLog::ScaleBefore& before, const ScaleState& scale,
                               const at::Tensor& found_inf,
                               const std::vector<CheckedOptimizer>& optimizers, int64_t patience) {
  log_.end_update(before, scale.exact(), found_inf, mask_of(optimizers, found_inf),
                  count_skipped(optimizers, found_inf));
  learn_stuck(scale);
  if (stuck_ == 0 && !asked_) return;
  std::map<int64_t, torch::optim::Optimizer*> by_number;
  for (const auto& checked : optimizers) by_number[checked.number] = checked.optimizer;
  search_.look(by_number, log_.updates());
  if (asked_ || stuck_ >= patience) diagnose(scale);
  asked_ = false;
}

void OverflowWatch::learn_stuck(const ScaleState& scale) {
  if (scale.stuck().defined()) {
    if (!reading_.started()) {
      reading_ = LateRead(scale.stuck());
      reading_age_ = 0;
    }
    // After a fixed number of updates, so that all ranks learn of it at the same one: the copy has
    // arrived long ago then, and on the CPU it has at once.
    if (!scale.stuck().is_cpu() && ++reading_age_ < kUpdatesToWait) return;
    reading_.wait();
    stuck_ = reading_.value().item<int32_t>();
    reading_ = {};
  }
  if (stuck_ > 0) return;
  search_.clear();
  diagnosis_.reset();
}

void OverflowWatch::diagnose(const ScaleState& scale) {
  const auto report = log_.report();
  if (report.overflowing_since == 0) return;
  OverflowDiagnosis found;
  found.update = report.updates;
  found.overflowing_since = report.overflowing_since;
  found.in_a_row_at_minimum = stuck_;
  found.scale = scale.values().scale;
  found.gradients = search_.gradients();
  found.non_finite = search_.non_finite();
  diagnosis_ = std::move(found);
}

}  // namespace halfstep::detail
