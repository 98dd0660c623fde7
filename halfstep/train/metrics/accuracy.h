#pragma once
#include "halfstep/train/config/config.h"
#include "halfstep/train/metrics/metric.h"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace halfstep::train {

/// The share of examples, from 0 to 1, whose target is among the k largest outputs: "accuracy/top1"
/// and so on. Outputs (n, classes) and int64 targets (n); outputs (n·t, classes) go with targets
/// (n, t) too. Of equal outputs that of the smallest index counts first. Difference from
/// MMPretrain's, which gives percents.
///
///   val_evaluator: {type: Accuracy, topk: [1, 5]}
class Accuracy : public Metric {
 public:
  /// Keys: topk ([1]), prefix (accuracy).
  explicit Accuracy(Config& config);

  void process(const at::Tensor& output, const at::Tensor& target) override;
  Metrics compute() override;

  void reduce(const SumOverRanks& sum) override;
  bool can_reduce() const override { return true; }

 private:
  at::Tensor correct() const;

  std::vector<int64_t> topk_;
  std::string prefix_;
  at::Tensor correct_;  // a count for each of topk_
  int64_t examples_ = 0;
};

}  // namespace halfstep::train
