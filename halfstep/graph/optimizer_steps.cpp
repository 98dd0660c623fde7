#include "halfstep/graph/optimizer_steps.h"

namespace halfstep::detail {

OptimizerSteps::Queued OptimizerSteps::queue() const {
  Queued queued;
  for (const auto& stepped : optimizers_) {
    if (scaler_ != nullptr) {
      queued.results.push_back(scaler_->step(*stepped.optimizer));
    } else {
      stepped.optimizer->step();
      queued.results.push_back(StepResult::known(true, {}, {}));
    }
  }
  if (scaler_ != nullptr) queued.update = scaler_->queue_update();
  return queued;
}

void OptimizerSteps::note(const Queued& queued) const {
  try {
    // Before the gradients go: it may look for those that overflowed.
    if (queued.update) scaler_->note_update(*queued.update);
    for (size_t i = 0; i < optimizers_.size(); ++i) {
      if (optimizers_[i].scheduler != nullptr) optimizers_[i].scheduler->step(queued.results[i]);
    }
  } catch (...) {
    take_gradients_away();
    throw;
  }
  take_gradients_away();
}

void OptimizerSteps::take_gradients_away() const {
  for (const auto& stepped : optimizers_) {
    for (const auto& group : stepped.optimizer->param_groups()) {
      for (const auto& parameter : group.params()) {
        if (parameter.grad().defined()) parameter.mutable_grad().reset();
      }
    }
  }
}

}  // namespace halfstep::detail
