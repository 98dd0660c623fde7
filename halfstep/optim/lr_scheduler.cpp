#include "halfstep/optim/lr_scheduler.h"

#include "halfstep/core/error.h"
#include "halfstep/optim/momentum.h"

#include <utility>

namespace halfstep::optim {

LRScheduler::LRScheduler(torch::optim::Optimizer& optimizer, Schedule schedule)
    : optimizer_(optimizer), schedule_(std::move(schedule)) {
  apply();
}

void LRScheduler::also_set(torch::optim::OptimizerOptions& options) {
  also_ = &options;
  also_base_rate_ = options.get_lr();
  apply();
}

void LRScheduler::step() {
  settle();
  ++steps_;
  apply();
}

void LRScheduler::step(const StepResult& result) {
  settle();
  if (result.is_known()) {
    if (!result.stepped()) {
      apply();
      return;
    }
  } else {
    pending_ = result;
    pending_->start_read();
  }
  ++steps_;
  apply();
}

void LRScheduler::set_steps(int64_t n) {
  HALFSTEP_CHECK_USAGE(n >= 0, "LRScheduler::set_steps", "n must be at least 0, but got ", n);
  pending_.reset();
  steps_ = n;
  apply();
}

int64_t LRScheduler::steps() {
  settle();
  apply();
  return steps_;
}

void LRScheduler::save(torch::serialize::OutputArchive& archive) {
  archive.write("steps", c10::IValue(steps()));
}

void LRScheduler::load(torch::serialize::InputArchive& archive) {
  c10::IValue steps;
  HALFSTEP_CHECK_ENVIRONMENT(archive.try_read("steps", steps) && steps.isInt(), "LRScheduler::load",
                             "the archive must hold an integer 'steps', but does not; load what "
                             "LRScheduler::save wrote");
  set_steps(steps.toInt());
}

void LRScheduler::settle() {
  if (pending_ && !pending_->stepped()) --steps_;
  pending_.reset();
}

void LRScheduler::apply() {
  const auto momentum = schedule_.momentum(steps_);
  auto& groups = optimizer_.param_groups();
  for (size_t i = 0; i < groups.size(); ++i) {
    auto& options = groups[i].options();
    if (i == base_rates_.size()) base_rates_.push_back(options.get_lr());
    options.set_lr(schedule_.rate(base_rates_[i], steps_));
    if (momentum) set_momentum(options, *momentum);
  }
  if (also_ != nullptr) also_->set_lr(schedule_.rate(also_base_rate_, steps_));
}

}  // namespace halfstep::optim
