#pragma once
#include "halfstep/optim/schedule.h"
#include "halfstep/scaling/step_result.h"

#include <torch/optim/optimizer.h>
#include <torch/serialize/archive.h>

namespace halfstep::optim {

/// Sets the learning rates of an optimizer by a Schedule.
///
///   LRScheduler scheduler(optimizer, warmup_lr(100, cosine_annealing_lr(900)));
///   for (auto& batch : *loader) {
///     …
///     scheduler.step(scaler.step(optimizer));  // does not advance on a skipped step
///     scaler.update();
///   }
///
/// Knows each group's base rate from its construction (a group added later: from the first step
/// after that), so construct it before the optimizer's saved state is loaded. Use one to an
/// optimizer: a second would overwrite its rates. The optimizer must outlive it. Not for use by two
/// threads at once.
class LRScheduler {
 public:
  /// Sets the rates of n = 0 (as Python's do). Throws UsageError where the schedule sets the
  /// momentum and the optimizer has none.
  LRScheduler(torch::optim::Optimizer& optimizer, Schedule schedule);

  /// Sets the rate of these options, too, as if they were a group's: a rate to show for an
  /// optimizer whose groups have rates of their own. They must outlive the scheduler.
  void also_set(torch::optim::OptimizerOptions& options);

  /// Counts one more and sets each group's rate.
  void step();

  /// Counts one more unless the scaler skipped the optimizer's step. Where that is known on a GPU
  /// only, the present step counts as taken until the next call, which reads the earlier flag and
  /// takes a skipped step back: no wait for the step at hand. Difference from Python, whose
  /// schedulers don't know of skips.
  void step(const StepResult& result);

  /// Sets n (resume) and each group's rate. Throws UsageError below 0.
  void set_steps(int64_t n);

  /// n: what was counted so far. Reads a flag that is still on a GPU, which syncs.
  int64_t steps();

  /// n in a torch archive, so that torch::save and torch::load work on it.
  void save(torch::serialize::OutputArchive& archive);
  void load(torch::serialize::InputArchive& archive);

 private:
  void settle();
  void apply();

  torch::optim::Optimizer& optimizer_;
  Schedule schedule_;
  std::vector<double> base_rates_;
  torch::optim::OptimizerOptions* also_ = nullptr;
  double also_base_rate_ = 0;
  int64_t steps_ = 0;
  std::optional<StepResult> pending_;  // counted in steps_, perhaps wrongly
};

}  // namespace halfstep::optim
