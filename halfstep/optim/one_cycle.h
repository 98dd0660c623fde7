#pragma once
#include "halfstep/optim/schedule.h"

namespace halfstep::optim {

/// The 1cycle policy: up to `max_lr`, then down to almost nothing, while the momentum goes the
/// other way. Defaults are those of Python's OneCycleLR.
///
///   LRScheduler scheduler(optimizer, one_cycle_lr(OneCycleOptions(0.1, steps).pct_start(0.2)));
class OneCycleOptions {
 public:
  /// The curve between two rates.
  enum class Anneal { cos, linear };

  /// `max_lr` is above 0 (Difference from Python: one for all groups); `total_steps` is the length
  /// of the whole cycle, at least 1.
  OneCycleOptions(double max_lr, int64_t total_steps)
      : max_lr_(max_lr), total_steps_(total_steps) {}
  double max_lr() const { return max_lr_; }
  int64_t total_steps() const { return total_steps_; }

  /// The share of the cycle that rises. Default: 0.3. In [0, 1].
  OneCycleOptions& pct_start(double value);
  double pct_start() const { return pct_start_; }

  /// The shape of rise and fall. Default: cos.
  OneCycleOptions& anneal_strategy(Anneal value);
  Anneal anneal_strategy() const { return anneal_strategy_; }

  /// Whether the momentum (SGD's, RMSprop's, Adam's first beta) falls from max_momentum to
  /// base_momentum and rises again. Default: true, 0.85, 0.95.
  OneCycleOptions& cycle_momentum(bool value);
  bool cycle_momentum() const { return cycle_momentum_; }
  OneCycleOptions& base_momentum(double value);
  double base_momentum() const { return base_momentum_; }
  OneCycleOptions& max_momentum(double value);
  double max_momentum() const { return max_momentum_; }

  /// The first rate is max_lr / div_factor. Default: 25. Above 0.
  OneCycleOptions& div_factor(double value);
  double div_factor() const { return div_factor_; }

  /// The last rate is the first one / final_div_factor. Default: 1e4. Above 0.
  OneCycleOptions& final_div_factor(double value);
  double final_div_factor() const { return final_div_factor_; }

  /// Whether the fall goes to the first rate in as many steps as the rise, then to the last one.
  /// Default: false.
  OneCycleOptions& three_phase(bool value);
  bool three_phase() const { return three_phase_; }

 private:
  double max_lr_;
  int64_t total_steps_;
  double pct_start_ = 0.3;
  Anneal anneal_strategy_ = Anneal::cos;
  bool cycle_momentum_ = true;
  double base_momentum_ = 0.85;
  double max_momentum_ = 0.95;
  double div_factor_ = 25.0;
  double final_div_factor_ = 1e4;
  bool three_phase_ = false;
};

/// The schedule of these options; the rate a group began with does not matter. After the last step
/// the last rate stays (Difference from Python, which throws). Throws UsageError for options out of
/// range.
Schedule one_cycle_lr(const OneCycleOptions& options);

}  // namespace halfstep::optim
