#pragma once
#include "halfstep/train/config/config.h"
#include "halfstep/train/metrics/metric.h"

#include <cstdint>
#include <string>

namespace halfstep::train {

/// The mean over all elements of |output − target| ("MAE") or of its square ("MSE"), computed in
/// float32 and summed in float64. Output and target have one shape.
///
///   val_evaluator: [{type: MAE}, {type: MSE, prefix: denoised}]
class MeanError : public Metric {
 public:
  /// MAE or MSE.
  enum class Kind { absolute, squared };

  /// Key: prefix (none): "prefix/MAE".
  MeanError(Config& config, Kind kind);

  void process(const at::Tensor& output, const at::Tensor& target) override;
  Metrics compute() override;

  void reduce(const SumOverRanks& sum) override;
  bool can_reduce() const override { return true; }

 private:
  Kind kind_;
  std::string name_;
  at::Tensor sum_;
  int64_t elements_ = 0;
};

}  // namespace halfstep::train
