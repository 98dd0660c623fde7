#pragma once
#include <cstdint>
#include <vector>

#include <torch/optim/optimizer.h>

namespace halfstep::train {

/// A learning rate as a function of finished epochs. The present rate follows from the rates at
/// construction and the number of steps alone, so resume needs no more than that number.
class Scheduler {
 public:
  explicit Scheduler(torch::optim::Optimizer& optimizer);
  virtual ~Scheduler() = default;

  /// Counts one more epoch and sets each group's rate.
  void step() { set_steps(steps_ + 1); }

  /// Sets the number of finished epochs (resume) and each group's rate.
  void set_steps(int64_t steps);
  int64_t steps() const { return steps_; }

 protected:
  /// The rate after `steps` epochs of a group that began with `base`.
  virtual double rate(double base, int64_t steps) const = 0;

 private:
  torch::optim::Optimizer& optimizer_;
  std::vector<double> base_rates_;
  int64_t steps_ = 0;
};

}  // namespace halfstep::train
