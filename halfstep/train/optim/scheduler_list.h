#pragma once
#include "halfstep/optim/schedule.h"
#include "halfstep/train/config/config.h"
#include "halfstep/train/optim/plateau.h"

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include <torch/optim/optimizer.h>

namespace halfstep::train {

/// A schedule with the part of the run in which it acts.
struct ScheduleEntry {
  static constexpr int64_t no_end = std::numeric_limits<int64_t>::max();

  optim::Schedule schedule;
  bool by_epoch = true;  ///< it counts finished epochs, else steps that were taken
  int64_t begin = 0;     ///< counts from `begin` on …
  int64_t end = no_end;  ///< … and leaves the rate as it is from `end` on
  /// Instead of the schedule, which then does nothing, and counting validations.
  std::optional<Plateau> plateau = std::nullopt;

  bool acts_throughout() const { return begin == 0 && end == no_end; }
};

/// What `param_scheduler` holds, for one optimizer: schedules that act one after the other or at
/// once. One that acts throughout and alone is a function of its count (optim::LRScheduler's rule);
/// of several each changes the rate that the others left (optim::Schedule::next), in their order,
/// as MMEngine's do.
///
///   SchedulerList schedulers(optimizer, {{optim::linear_lr(0.001, 1.0, 499), false, 0, 500},
///                                        {optim::step_lr(8), true}});
///   schedulers.step_iter();   // after each step that was taken
///   schedulers.step_epoch();  // after each epoch
///
/// Difference from MMEngine: neither skipped steps nor micro-iterations count.
class SchedulerList {
 public:
  /// Without schedules: leaves every rate as it is.
  SchedulerList() = default;

  /// Sets the rates of the beginning. Throws UsageError where an interval is empty, or where a
  /// schedule that sets the momentum, or the rate whatever it was, is not alone and throughout. The
  /// optimizer must outlive this object, and its groups must stay the same. The rate of `also`,
  /// which must outlive it too, is set as if it were a group's: a rate to show for groups that have
  /// rates of their own (OptimWrapper::base_settings).
  SchedulerList(torch::optim::Optimizer& optimizer, std::vector<ScheduleEntry> entries,
                torch::optim::OptimizerOptions* also = nullptr);

  bool empty() const { return entries_.empty(); }

  /// Counts one more epoch, or taken step, for the schedules that count those, and sets the rates.
  void step_epoch() { step(true); }
  void step_iter() { step(false); }

  /// Shows the schedules that follow a result of the validations (ReduceOnPlateauLR) the results of
  /// one.
  void step_validation(const Metrics& metrics);

  /// What those need beside the counts, null for the others; empty where there are none.
  nlohmann::json plateaus() const;
  void load_plateaus(const nlohmann::json& states);

  /// How often each schedule was stepped, in order.
  const std::vector<int64_t>& counts() const { return counts_; }

  /// Goes on from such counts, once the optimizer (and `also`) has the state, and with it the
  /// rates, of that moment back. Throws EnvironmentError for counts of other schedules.
  void set_counts(const std::vector<int64_t>& counts);

 private:
  void step(bool by_epoch);
  void apply(size_t index);

  std::vector<torch::optim::OptimizerOptions*> options() const;

  torch::optim::Optimizer* optimizer_ = nullptr;
  torch::optim::OptimizerOptions* also_ = nullptr;
  std::vector<ScheduleEntry> entries_;
  std::vector<int64_t> counts_;
  std::vector<double> base_rates_;
};

/// Reads `param_scheduler`, or another key: a list of mappings, each a schedule's own keys beside
/// `by_epoch` (true), `begin` (0) and `end`. What a schedule needs of its length it takes from
/// begin and end where they are given. Throws UsageError with file and line.
std::vector<ScheduleEntry> read_schedulers(Config& config, bool run_by_epoch,
                                           const std::string& key = "param_scheduler");

}  // namespace halfstep::train
