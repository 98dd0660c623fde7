#pragma once
#include "halfstep/train/config/config.h"
#include "halfstep/train/hooks/hook.h"

#include <chrono>

namespace halfstep::train {

/// Tells the message hub, in seconds of this process's clock: "train/data_time" (from the end of
/// the last step to the batch), "train/time" (to the end of this step), and "eta", what the rest of
/// the run takes if steps go on as they did; "val/data_time" and "val/time" likewise. On a GPU
/// these are the times in which the host gave it work.
class IterTimerHook : public Hook {
 public:
  /// Its entry of the config has no keys of its own.
  explicit IterTimerHook(Config&) {}

  void before_run(Trainer& trainer) override;
  void before_train_epoch(Trainer& trainer) override;
  void before_train_iter(Trainer& trainer, const Batch& batch) override;
  void after_train_iter(Trainer& trainer, const Batch& batch) override;
  void before_val_epoch(Trainer& trainer) override;
  void before_val_iter(Trainer& trainer, int64_t number, const Batch& batch) override;
  void after_val_iter(Trainer& trainer, int64_t number, const Batch& batch) override;
  void after_val_epoch(Trainer& trainer, const Metrics& metrics) override;

 private:
  using Clock = std::chrono::steady_clock;
  double passed() const;

  Clock::time_point mark_;    // the end of what came before
  double train_seconds_ = 0;  // of this process's steps
  int64_t train_steps_ = 0;
};

}  // namespace halfstep::train
