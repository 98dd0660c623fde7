#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <utility>
#include <vector>

namespace halfstep::optim {

/// A learning rate as a pure function of the rate a param group began with and the number n of
/// steps (epochs or optimizer steps, whatever the LRScheduler counts) done since then. So resume
/// needs n alone, and schedules nest: sequential_lr({warmup, cosine}, {100}).
///
///   LRScheduler scheduler(optimizer, cosine_annealing_lr(100));
///
/// The functions below make those of Python's classes of these names, in their closed form.
/// Difference from Python, which multiplies the last rate: a rate changed by hand in between is
/// overwritten. They throw UsageError for values out of range. A Schedule may be used by several
/// schedulers and threads at once.
class Schedule {
 public:
  /// The rate after n steps of a group that began with `base`, and the momentum then.
  using Rate = std::function<double(double base, int64_t n)>;
  using Momentum = std::function<double(int64_t n)>;

  /// `rate` must be a pure function, defined for every n from 0 on. Not explicit, so that a lambda
  /// is a Schedule.
  template <class F>
  requires std::is_invocable_r_v<double, F, double, int64_t> Schedule(F rate)
      : rate_(std::move(rate)) {}
  Schedule(Rate rate, Momentum momentum) : rate_(std::move(rate)), momentum_(std::move(momentum)) {}
  /// One that scales the part of the rate above `floor` (an eta_min), which next() leaves alone.
  Schedule(Rate rate, double floor) : rate_(std::move(rate)), floor_(floor) {}

  /// The rate after `n` steps of a group that began with `base`.
  double rate(double base, int64_t n) const { return rate_(base, n); }

  /// What step `n` makes of a rate `current` that others have changed since step n − 1: the part
  /// above the floor times this schedule's own ratio of the two steps (at n = 0: of the first to
  /// `base`). Several schedules that take turns so multiply, as Python's do, whose "chainable form"
  /// this is. From a step without a rate above the floor it goes on by the difference.
  double next(double current, double base, int64_t n) const;

  /// The momentum (SGD's, Adam's first beta) after `n` steps; none where it is left as it is.
  std::optional<double> momentum(int64_t n) const {
    return momentum_ ? std::optional(momentum_(n)) : std::nullopt;
  }
  bool has_momentum() const { return static_cast<bool>(momentum_); }

 private:
  Rate rate_;
  Momentum momentum_;
  double floor_ = 0;
};

/// base · gamma^⌊n / step_size⌋
Schedule step_lr(int64_t step_size, double gamma = 0.1);

/// base · gamma^(number of milestones ≤ n); the milestones rise and are at least 1.
Schedule multi_step_lr(std::vector<int64_t> milestones, double gamma = 0.1);

/// base · gamma^n
Schedule exponential_lr(double gamma);

/// base · factor for n < total_iters, then base. The factor is in [0, 1].
Schedule constant_lr(double factor = 1.0 / 3, int64_t total_iters = 5);

/// base times a factor that goes in a straight line from `start_factor` (above 0, at most 1) at n =
/// 0 to `end_factor` (in [0, 1]) at n = total_iters and stays there.
Schedule linear_lr(double start_factor = 1.0 / 3, double end_factor = 1.0, int64_t total_iters = 5);

/// eta_min + (base − eta_min) · (1 − n / total_iters)^power; eta_min from n = total_iters on.
/// Difference from Python: the eta_min, which is MMEngine's.
Schedule polynomial_lr(int64_t total_iters = 5, double power = 1.0, double eta_min = 0.0);

/// eta_min + (base − eta_min) · (1 + cos(π · n / t_max)) / 2; rises again after t_max.
Schedule cosine_annealing_lr(int64_t t_max, double eta_min = 0.0);

/// The cosine from base to eta_min again and again: over t_0 steps, then t_0 · t_mult, and so on.
Schedule cosine_annealing_warm_restarts(int64_t t_0, int64_t t_mult = 1, double eta_min = 0.0);

/// base · factor(n)
Schedule lambda_lr(std::function<double(int64_t n)> factor);

/// Schedule i until step milestones[i], each counting from its own beginning. One milestone less
/// than schedules; they rise and are at least 1.
Schedule sequential_lr(std::vector<Schedule> schedules, std::vector<int64_t> milestones);

/// All of them at once: base times the product of what each alone would make of it. Python's
/// ChainedScheduler; equal to it where each schedule is a factor of the base (an eta_min is not).
Schedule chained_lr(std::vector<Schedule> schedules);

/// base · (n + 1) / warmup_steps for n < warmup_steps, then `schedule`, counted from there. Common
/// in recipes; Python spells it as a SequentialLR of LinearLR and another.
Schedule warmup_lr(int64_t warmup_steps, Schedule schedule);

}  // namespace halfstep::optim
