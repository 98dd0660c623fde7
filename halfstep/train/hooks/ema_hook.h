#pragma once
#include "halfstep/train/config/config.h"
#include "halfstep/train/hooks/hook.h"
#include "halfstep/train/hooks/weight_average.h"

namespace halfstep::train {

/// Keeps an average of the weights (see WeightAverage for its kinds and keys) from step
/// `begin_iter` or epoch `begin_epoch` on (0: from the start; before that it follows the weights).
/// Validations measure the average, and a checkpoint's model is the average, as `halfstep test` and
/// load_from take it; the weights themselves lie beside it ("ema.…"), and a resumed run goes on
/// with both.
///
///   custom_hooks: [{type: EMAHook, momentum: 0.0002}]
///
/// Iterations count, as in MMEngine, whatever number of optimizers they step. Difference from
/// MMEngine: only those in which a step was taken, none that was skipped or only accumulated.
class EMAHook : public Hook {
 public:
  /// From its entry of the config. Throws UsageError for a value out of range.
  explicit EMAHook(Config& config);

  void before_run(Trainer& trainer) override;
  void after_backward(Trainer& trainer) override;
  void after_outcome(Trainer& trainer, const StepResult& result) override;
  void after_train_iter(Trainer& trainer, const Batch& batch) override;
  void before_val_epoch(Trainer& trainer) override;
  void after_val_epoch(Trainer& trainer, const Metrics& metrics) override;
  void before_save_checkpoint(Trainer& trainer, Checkpoint& checkpoint) override;
  void after_load_checkpoint(Trainer& trainer, Checkpoint& checkpoint) override;
  nlohmann::json state() const override;
  void load_state(const nlohmann::json& state) override;

  const WeightAverage& average() const { return average_; }

 private:
  bool has_begun(const Trainer& trainer) const;
  void take_iteration(const Trainer& trainer);

  int64_t begin_iter_;
  int64_t begin_epoch_;
  WeightAverage average_;
  bool loaded_ = false;
  // Of the iteration at hand, or of the last one where its last outcome is still on a GPU.
  int64_t unknown_outcomes_ = 0;
  bool is_over_ = false;
  bool stepped_ = false;
};

}  // namespace halfstep::train
