#include "halfstep/train/optim/scheduler.h"

namespace halfstep::train {

Scheduler::Scheduler(torch::optim::Optimizer& optimizer) : optimizer_(optimizer) {
  for (const auto& group : optimizer.param_groups())
    base_rates_.push_back(group.options().get_lr());
}

void Scheduler::set_steps(int64_t steps) {
  steps_ = steps;
  auto& groups = optimizer_.param_groups();
  for (size_t i = 0; i < groups.size(); ++i)
    groups[i].options().set_lr(rate(base_rates_.at(i), steps));
}

}  // namespace halfstep::train
