#pragma once
#include "halfstep/train/config/config.h"
#include "halfstep/train/hooks/hook.h"
#include "halfstep/train/hooks/json_log.h"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

namespace halfstep::train {

/// Writes what the gradients look like into log.jsonl, every `interval` steps (default 100): a line
/// of the event `gradients` with, for each parameter or (`by: module`) each module that has some,
/// the `norm` of the gradients as they are without the loss scale, and the shares of `zeros` and of
/// `nonfinite` values (inf or NaN). Zeros that a larger loss scale would save, and the layer where
/// an overflow began, can be seen there. Where a step only accumulates, the next update's gradients
/// are taken. Each of several optimizers has those of its own parameters, before its own update
/// (the last one of the step), and its own "NAME.loss_scale". Does not sync at other steps.
///
///   custom_hooks: [{type: GradientStatisticsHook, interval: 50, by: module}]
class GradientStatisticsHook : public Hook {
 public:
  /// From its entry of the config. Throws UsageError for a value out of range.
  explicit GradientStatisticsHook(Config& config);

  void before_run(Trainer& trainer) override;
  void after_backward(Trainer& trainer) override;
  void after_train_iter(Trainer& trainer, const Batch& batch) override;

 private:
  // An optimizer's, of the step at hand.
  struct Figures {
    std::vector<std::string> names;
    std::vector<int64_t> elements;
    at::Tensor counts;  // (n, 3): sum of squares, zeros, values that are not finite; float64
    double scale = 1;
    int64_t step = 0;  // the last one that had some
  };

  int64_t interval_;
  bool by_module_;
  std::optional<JsonLog> log_;
  std::vector<Figures> figures_;  // of each wrapper
};

}  // namespace halfstep::train
