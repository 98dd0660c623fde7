#pragma once
#include "halfstep/train/config/config.h"
#include "halfstep/train/optim/scheduler.h"

#include <memory>
#include <vector>

namespace halfstep::train {

using SchedulerPtr = std::unique_ptr<Scheduler>;

/// The built-in schedulers: Python's classes of these names, as closed formulas of the number n of
/// finished epochs and the rate each param group began with.
///
/// Difference from Python: the rate follows from n alone, so a rate changed by hand in between is
/// overwritten, and so is that of another scheduler: use one to an optimizer.
///
/// The constructors throw UsageError for what the factories below refuse with file and line.

/// base · gamma^⌊n / step_size⌋
class StepLR : public Scheduler {
 public:
  StepLR(torch::optim::Optimizer& optimizer, int64_t step_size, double gamma = 0.1);

 protected:
  double rate(double base, int64_t steps) const override;

 private:
  int64_t step_size_;
  double gamma_;
};

/// base · gamma^(number of milestones ≤ n)
class MultiStepLR : public Scheduler {
 public:
  MultiStepLR(torch::optim::Optimizer& optimizer, std::vector<int64_t> milestones,
              double gamma = 0.1);

 protected:
  double rate(double base, int64_t steps) const override;

 private:
  std::vector<int64_t> milestones_;
  double gamma_;
};

/// base · gamma^n
class ExponentialLR : public Scheduler {
 public:
  ExponentialLR(torch::optim::Optimizer& optimizer, double gamma);

 protected:
  double rate(double base, int64_t steps) const override;

 private:
  double gamma_;
};

/// eta_min + (base − eta_min) · (1 + cos(π · n / t_max)) / 2; rises again after t_max.
class CosineAnnealingLR : public Scheduler {
 public:
  CosineAnnealingLR(torch::optim::Optimizer& optimizer, int64_t t_max, double eta_min = 0.0);

 protected:
  double rate(double base, int64_t steps) const override;

 private:
  int64_t t_max_;
  double eta_min_;
};

/// Keys: step_size (at least 1), gamma (0.1, at least 0).
SchedulerPtr make_step_lr(Config& config, torch::optim::Optimizer& optimizer);
/// Keys: milestones (rising, at least 1), gamma (0.1, at least 0).
SchedulerPtr make_multi_step_lr(Config& config, torch::optim::Optimizer& optimizer);
/// Key: gamma (at least 0).
SchedulerPtr make_exponential_lr(Config& config, torch::optim::Optimizer& optimizer);
/// Keys: T_max (at least 1), eta_min (0.0, at least 0).
SchedulerPtr make_cosine_annealing_lr(Config& config, torch::optim::Optimizer& optimizer);

}  // namespace halfstep::train
