#pragma once
#include "halfstep/train/config/config.h"
#include "halfstep/train/hooks/hook.h"

namespace halfstep::train {

/// Moves the learning rates: schedules by epoch after each epoch, those by step after each step
/// that was taken. Difference from MMEngine, whose schedules move on when a step was skipped, too.
class ParamSchedulerHook : public Hook {
 public:
  /// Its entry of the config has no keys of its own.
  explicit ParamSchedulerHook(Config&) {}

  int64_t priority() const override { return priority::low; }
  void after_outcome(Trainer& trainer, const StepResult& result) override;
  void after_train_epoch(Trainer& trainer) override;
  void after_val_epoch(Trainer& trainer, const Metrics& metrics) override;
};

}  // namespace halfstep::train
