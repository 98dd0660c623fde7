#include "halfstep/train/hooks/iter_timer_hook.h"

#include "halfstep/train/loop/trainer.h"

namespace halfstep::train {

double IterTimerHook::passed() const {
  return std::chrono::duration<double>(Clock::now() - mark_).count();
}

void IterTimerHook::before_run(Trainer&) {
  mark_ = Clock::now();
  train_seconds_ = 0;
  train_steps_ = 0;
}

void IterTimerHook::before_train_epoch(Trainer&) {
  mark_ = Clock::now();
}

void IterTimerHook::before_train_iter(Trainer& trainer, const Batch&) {
  trainer.message_hub().update_scalar("train/data_time", passed());
}

void IterTimerHook::after_train_iter(Trainer& trainer, const Batch&) {
  const double seconds = passed();
  mark_ = Clock::now();
  train_seconds_ += seconds;
  ++train_steps_;
  trainer.message_hub().update_scalar("train/time", seconds);
  const int64_t left = trainer.total_steps() - trainer.progress().step;
  trainer.message_hub().update_scalar(
      "eta", train_seconds_ / static_cast<double>(train_steps_) * static_cast<double>(left));
}

void IterTimerHook::before_val_epoch(Trainer&) {
  mark_ = Clock::now();
}

void IterTimerHook::before_val_iter(Trainer& trainer, int64_t, const Batch&) {
  trainer.message_hub().update_scalar("val/data_time", passed());
}

void IterTimerHook::after_val_iter(Trainer& trainer, int64_t, const Batch&) {
  trainer.message_hub().update_scalar("val/time", passed());
  mark_ = Clock::now();
}

void IterTimerHook::after_val_epoch(Trainer&, const Metrics&) {
  mark_ = Clock::now();
}

}  // namespace halfstep::train
