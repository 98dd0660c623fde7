#include "halfstep/train/hooks/param_scheduler_hook.h"

#include "halfstep/train/loop/trainer.h"

namespace halfstep::train {

void ParamSchedulerHook::after_outcome(Trainer& trainer, const StepResult& result) {
  if (result.stepped()) trainer.active_wrapper().schedulers.step_iter();
}

void ParamSchedulerHook::after_train_epoch(Trainer& trainer) {
  for (auto& wrapper : trainer.parts().wrappers) wrapper.schedulers.step_epoch();
}

void ParamSchedulerHook::after_val_epoch(Trainer& trainer, const Metrics& metrics) {
  if (metrics.empty()) return;
  for (auto& wrapper : trainer.parts().wrappers) wrapper.schedulers.step_validation(metrics);
}

}  // namespace halfstep::train
