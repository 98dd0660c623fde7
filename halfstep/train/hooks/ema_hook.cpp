#include "halfstep/train/hooks/ema_hook.h"

#include "halfstep/core/error.h"
#include "halfstep/train/loop/trainer.h"

#include <iostream>
#include <utility>

namespace halfstep::train {

EMAHook::EMAHook(Config& config)
    : begin_iter_(config.get<int64_t>("begin_iter", 0)),
      begin_epoch_(config.get<int64_t>("begin_epoch", 0)),
      average_(config) {
  if (begin_iter_ < 0) config.fail("begin_iter", "must be at least 0");
  if (begin_epoch_ < 0) config.fail("begin_epoch", "must be at least 0");
  if (begin_iter_ > 0 && begin_epoch_ > 0)
    config.fail("begin_epoch", "must be left out beside begin_iter");
}

void EMAHook::before_run(Trainer& trainer) {
  const auto& loop = trainer.parts().loop;
  HALFSTEP_CHECK_USAGE(begin_epoch_ == 0 || (loop.by_epoch && begin_epoch_ <= loop.length),
                       "EMAHook",
                       "begin_epoch must be at most max_epochs of a run by epochs, but got ",
                       begin_epoch_, "; lower it, or use begin_iter");
  HALFSTEP_CHECK_USAGE(begin_iter_ <= trainer.total_steps(), "EMAHook",
                       "begin_iter must be at most the ", trainer.total_steps(),
                       " steps of the run, but got ", begin_iter_, "; lower it");
  average_.watch(*trainer.parts().model);
  // Of a run that had no average before: its weights are as they were loaded by now.
  if (!loaded_) average_.copy();
  loaded_ = true;
}

bool EMAHook::has_begun(const Trainer& trainer) const {
  const auto& progress = trainer.progress();
  if (begin_epoch_ == 0) return progress.step >= begin_iter_;
  return progress.epoch + 1 >= begin_epoch_;
}

void EMAHook::after_backward(Trainer&) {
  is_over_ = false;
  ++unknown_outcomes_;
}

// An outcome that a GPU tells late comes before the next update: the weights are still the
// iteration's.
void EMAHook::after_outcome(Trainer& trainer, const StepResult& result) {
  --unknown_outcomes_;
  stepped_ = stepped_ || result.stepped();
  if (is_over_) take_iteration(trainer);
}

void EMAHook::after_train_iter(Trainer& trainer, const Batch&) {
  is_over_ = true;
  take_iteration(trainer);
}

void EMAHook::take_iteration(const Trainer& trainer) {
  if (unknown_outcomes_ > 0 || !std::exchange(stepped_, false)) return;
  if (has_begun(trainer))
    average_.update();
  else
    average_.copy();
}

void EMAHook::before_val_epoch(Trainer&) {
  average_.swap_in();
}

void EMAHook::after_val_epoch(Trainer&, const Metrics&) {
  average_.swap_out();
}

void EMAHook::before_save_checkpoint(Trainer&, Checkpoint& checkpoint) {
  for (const auto& [name, weight, average, own] : average_.items()) {
    auto& model = checkpoint.tensors.at("model." + name);
    checkpoint.tensors["ema.weight." + name] = std::exchange(model, average.to(weight.dtype()));
    if (average.dtype() != weight.dtype()) checkpoint.tensors["ema.average." + name] = average;
  }
}

void EMAHook::after_load_checkpoint(Trainer& trainer, Checkpoint& checkpoint) {
  if (!trainer.is_resuming()) return;
  average_.watch(*trainer.parts().model);
  bool found = false;
  for (auto& [name, weight, average, own] : average_.items()) {
    const auto saved = checkpoint.tensors.find("ema.weight." + name);
    const auto model = checkpoint.tensors.find("model." + name);
    if (saved == checkpoint.tensors.end() || model == checkpoint.tensors.end()) continue;
    const auto wide = checkpoint.tensors.find("ema.average." + name);
    const auto& value = wide == checkpoint.tensors.end() ? model->second : wide->second;
    if (value.sizes() == average.sizes()) average.copy_(value);
    model->second = saved->second;
    found = true;
  }
  loaded_ = found;
  if (!found)
    std::cerr << "warning: the checkpoint holds no average of the weights; EMAHook begins with the "
                 "weights themselves\n";
}

nlohmann::json EMAHook::state() const {
  return {{"updates", average_.updates()}};
}

void EMAHook::load_state(const nlohmann::json& state) {
  average_.set_updates(state.at("updates").get<int64_t>());
}

}  // namespace halfstep::train
