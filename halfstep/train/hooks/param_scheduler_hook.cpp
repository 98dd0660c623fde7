#include "halfstep/train/hooks/param_scheduler_hook.h"

#include "halfstep/train/loop/trainer.h"

namespace halfstep::train {

void ParamSchedulerHook::after_outcome(Trainer& trainer, const StepResult& result) {
  if (result.stepped()) trainer.parts().schedulers.step_iter();
}

void ParamSchedulerHook::after_train_epoch(Trainer& trainer) {
  trainer.parts().schedulers.step_epoch();
}

}  // namespace halfstep::train
