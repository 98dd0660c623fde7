#pragma once
#include "halfstep/train/metrics/metric.h"

#include <algorithm>
#include <memory>
#include <vector>

namespace halfstep::train {

/// Several metrics over one pass: what `val_evaluator` names. Without any it measures nothing.
class Evaluator {
 public:
  Evaluator() = default;
  /// None may be null.
  explicit Evaluator(std::vector<std::unique_ptr<Metric>> metrics) : metrics_(std::move(metrics)) {}

  bool empty() const { return metrics_.empty(); }

  /// Gives every metric a batch.
  void process(const at::Tensor& output, const at::Tensor& target) {
    for (const auto& metric : metrics_) metric->process(output, target);
  }

  /// Whether all metrics can be summed over ranks, and doing so; see Metric::reduce.
  bool can_reduce() const {
    return std::all_of(metrics_.begin(), metrics_.end(),
                       [](const auto& metric) { return metric->can_reduce(); });
  }
  void reduce(const SumOverRanks& sum) {
    for (const auto& metric : metrics_) metric->reduce(sum);
  }

  /// All results, in the metrics' order; forgets them. Throws UsageError where two have one name.
  Metrics compute() {
    Metrics all;
    for (const auto& metric : metrics_)
      for (const auto& [name, value] : metric->compute()) all.add(name, value);
    return all;
  }

 private:
  std::vector<std::unique_ptr<Metric>> metrics_;
};

}  // namespace halfstep::train
