#pragma once
#include "halfstep/train/config/config.h"
#include "halfstep/train/hooks/hook.h"

#include <cstdint>

namespace halfstep::train {

/// Saves a checkpoint every `interval` epochs (default 1), every `step_interval` steps (default 0:
/// not between epochs), and at the end; removes the oldest beyond `max_keep` (default 2, 0 keeps
/// all) once the new one is on disk.
class CheckpointHook : public Hook {
 public:
  explicit CheckpointHook(Config& config);

  void after_step(Trainer& trainer) override;
  void after_epoch(Trainer& trainer) override;
  void after_run(Trainer& trainer) override;

 private:
  void save(Trainer& trainer) const;

  int64_t interval_;
  int64_t step_interval_;
  int64_t max_keep_;
};

}  // namespace halfstep::train
