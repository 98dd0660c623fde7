#include "halfstep/scaling/overflow_log.h"

#include <algorithm>
#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>

namespace halfstep::detail {

namespace {

constexpr int64_t kColumns = 5;
constexpr std::size_t kMostSources = 52;  // bits that a float64 holds exactly

double on_host(const at::Tensor& number) {
  return number.scalar_type() == c10::kFloat ? *number.const_data_ptr<float>()
                                             : *number.const_data_ptr<double>();
}

}  // namespace

double OverflowLog::bit_of(const OverflowSource& source) {
  auto place = std::find(sources_.begin(), sources_.end(), source);
  if (place == sources_.end() && sources_.size() < kMostSources)
    place = sources_.insert(place, source);
  const auto index = std::min<int64_t>(place - sources_.begin(), kMostSources - 1);
  return std::ldexp(1.0, static_cast<int>(index));
}

void OverflowLog::make_page(const at::Tensor& scale) {
  const c10::InferenceMode normal_mode(false);
  const auto options = scale.options().dtype(c10::kDouble);
  page_ = at::zeros({kRows, kColumns}, options);
  last_ = at::zeros({size_, kColumns + 1}, options);
  totals_ = at::zeros({3}, options);
}

OverflowLog::ScaleBefore OverflowLog::begin_update(const at::Tensor& scale) {
  if (!page_.defined()) make_page(scale);
  if (scale.is_cpu() && !by_operations_) return {on_host(scale), {}};
  return {0, scale.to(c10::kDouble, /*non_blocking=*/true, /*copy=*/true)};
}

void OverflowLog::end_update(const ScaleBefore& before, const at::Tensor& scale,
                             const at::Tensor& found_inf, const at::Tensor& mask,
                             const at::Tensor& skipped) {
  if (scale.is_cpu() && !by_operations_) {
    double* row = page_.mutable_data_ptr<double>() + on_page_ * kColumns;
    row[0] = before.number;
    row[1] = on_host(scale);
    row[2] = on_host(found_inf);
    row[3] = on_host(mask);
    row[4] = on_host(skipped);
  } else {
    page_.select(0, on_page_).copy_(at::stack({before.tensor, scale, found_inf, mask, skipped}));
  }
  if (++on_page_ == kRows) condense();
}

void OverflowLog::condense() {
  const auto numbers =
      at::arange(condensed_ + 1, condensed_ + on_page_ + 1, page_.options()).unsqueeze(1);
  const auto rows = at::cat({numbers, page_.narrow(0, 0, on_page_)}, 1);
  const auto overflowed = rows.select(1, 3) != 0;
  totals_.select(0, 0).add_(overflowed.sum());
  totals_.select(0, 1).add_(rows.select(1, 5).sum());
  const auto last_clean = at::where(overflowed, 0.0, rows.select(1, 0)).max();
  totals_.select(0, 2).clamp_min_(last_clean);

  const auto candidates = at::cat({last_, rows});
  const auto order = at::where(candidates.select(1, 3) != 0, candidates.select(1, 0), 0.0);
  last_ = candidates.index_select(0, std::get<1>(order.topk(size_)));
  condensed_ += on_page_;
  on_page_ = 0;
}

OverflowReport OverflowLog::report() {
  OverflowReport report;
  report.updates = updates();
  if (!page_.defined()) return report;
  if (on_page_ > 0) condense();
  const auto totals = totals_.cpu();
  const auto* total = totals.const_data_ptr<double>();
  report.overflows = static_cast<int64_t>(total[0]);
  report.skipped_steps = static_cast<int64_t>(total[1]);
  const auto last_clean = static_cast<int64_t>(total[2]);
  report.overflowing_since = last_clean < report.updates ? last_clean + 1 : 0;

  const auto last = last_.cpu();
  for (int64_t i = size_ - 1; i >= 0; --i) {
    const double* row = last.const_data_ptr<double>() + i * (kColumns + 1);
    if (row[3] == 0) continue;
    SkippedUpdate skipped{static_cast<int64_t>(row[0]), row[1], row[2], {}};
    const auto mask = static_cast<uint64_t>(row[4]);
    for (std::size_t source = 0; source < sources_.size(); ++source)
      if ((mask >> source) & 1U) skipped.sources.push_back(sources_[source]);
    report.last.push_back(std::move(skipped));
  }
  return report;
}

}  // namespace halfstep::detail
