#include "halfstep/train/hooks/checkpoint_hook.h"

#include "halfstep/train/loop/trainer.h"

namespace halfstep::train {

CheckpointHook::CheckpointHook(Config& config)
    : interval_(config.get<int64_t>("interval", 1)),
      step_interval_(config.get<int64_t>("step_interval", 0)),
      max_keep_(config.get<int64_t>("max_keep", 2)) {
  if (interval_ < 1) config.fail("interval", "must be at least 1 epoch");
  if (step_interval_ < 0)
    config.fail("step_interval", "must be a number of steps, or 0 for none between epochs");
  if (max_keep_ < 0) config.fail("max_keep", "must be a number of files, or 0 to keep all");
}

void CheckpointHook::after_step(Trainer& trainer) {
  if (step_interval_ > 0 && trainer.progress().step % step_interval_ == 0) save(trainer);
}

void CheckpointHook::after_epoch(Trainer& trainer) {
  if (trainer.progress().epoch % interval_ == 0) save(trainer);
}

void CheckpointHook::after_run(Trainer& trainer) {
  save(trainer);
}

void CheckpointHook::save(Trainer& trainer) const {
  const auto saved = trainer.save_checkpoint();
  if (max_keep_ == 0) return;
  auto files = trainer.work_dir().checkpoints();
  std::erase(files, saved);
  // Only unlinking can fail here, and a file too many does no harm.
  for (size_t i = 0; i + static_cast<size_t>(max_keep_) <= files.size(); ++i) {
    std::error_code ignored;
    std::filesystem::remove(files[i], ignored);
  }
}

}  // namespace halfstep::train
