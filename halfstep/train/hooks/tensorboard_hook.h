#pragma once
#include "halfstep/train/config/config.h"
#include "halfstep/train/hooks/hook.h"
#include "halfstep/train/tensorboard/event_file.h"

#include <optional>

namespace halfstep::train {

/// Writes the numbers of the log for TensorBoard, into the work dir's vis_data: every `interval`
/// steps (default 50) what a line of training shows, as train/loss, train/lr, train/loss_scale,
/// train/skipped and so on, and each validation's results as val/accuracy and so on, both over the
/// step; once the config, as a text. Where a run is resumed, TensorBoard forgets what came after
/// the checkpoint's step; a validation that is made again is there twice. Written by the first
/// process alone. A line reads the loss, so it waits for the device.
///
///   custom_hooks: [{type: TensorboardHook}]
///   tensorboard --logdir work_dirs
class TensorboardHook : public Hook {
 public:
  /// Key: interval. Throws UsageError with file and line.
  explicit TensorboardHook(Config& config);

  int64_t priority() const override { return priority::below_normal; }
  void before_run(Trainer& trainer) override;
  void after_train_iter(Trainer& trainer, const Batch& batch) override;
  void after_val_epoch(Trainer& trainer, const Metrics& metrics) override;

 private:
  int64_t interval_;
  std::optional<EventFile> file_;
};

}  // namespace halfstep::train
