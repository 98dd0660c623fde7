#pragma once
#include <optional>

#include <torch/optim/optimizer.h>

namespace halfstep::optim {

/// Mark of optimizer options that have a momentum, beside torch::optim::OptimizerOptions. Those of
/// LibTorch and of halfstep (SGD, RMSprop, Adam, AdamW) need none.
class MomentumOptions {
 public:
  virtual ~MomentumOptions() = default;
  /// The momentum that a schedule reads and writes.
  virtual double get_momentum() const = 0;
  virtual void set_momentum(double momentum) = 0;

 protected:
  MomentumOptions() = default;
  MomentumOptions(const MomentumOptions&) = default;
  MomentumOptions& operator=(const MomentumOptions&) = default;
};

/// The momentum of a param group's options: SGD's and RMSprop's momentum, Adam's and AdamW's first
/// beta; none for options that have no momentum.
std::optional<double> get_momentum(const torch::optim::OptimizerOptions& options);

/// Sets it. Throws UsageError for options that have none.
void set_momentum(torch::optim::OptimizerOptions& options, double momentum);

}  // namespace halfstep::optim
