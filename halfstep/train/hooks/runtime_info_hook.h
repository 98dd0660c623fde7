#pragma once
#include "halfstep/train/config/config.h"
#include "halfstep/train/hooks/hook.h"

namespace halfstep::train {

/// Tells the message hub what the loop itself knows: "train/loss" and what else
/// the model logs after each step, and "val/NAME"
/// for each result of a validation. Does not sync. (The rate of each step, "train/lr", is told by
/// the trainer, which alone knows it at the right moment.)
class RuntimeInfoHook : public Hook {
 public:
  /// Its entry of the config has no keys of its own.
  explicit RuntimeInfoHook(Config&) {}

  int64_t priority() const override { return priority::very_high; }
  void after_train_iter(Trainer& trainer, const Batch& batch) override;
  void after_val_epoch(Trainer& trainer, const Metrics& metrics) override;
};

}  // namespace halfstep::train
