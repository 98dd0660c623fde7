#pragma once
#include "halfstep/optim/master_weights.h"
#include "halfstep/train/config/config.h"

#include <memory>
#include <vector>

#include <torch/optim/optimizer.h>

namespace halfstep::train {

/// What the factories below make.
using OptimizerPtr = std::unique_ptr<torch::optim::Optimizer>;

/// The fused optimizers of halfstep::optim, and LibTorch's RMSprop, with the keys, defaults and
/// ranges of Python's classes. Each throws UsageError with file and line for a value out of range.
/// The fused ones have `master_weights`, too. Difference from Python: LBFGS is missing, its step
/// needs a closure that the loop has not.

/// The key `master_weights` of an optimizer: none (the default), float32 or remainder. Throws
/// UsageError with file and line for another value.
optim::MasterWeights read_master_weights(Config& optimizer);

/// lr (1e-3), betas ([0.9, 0.999]), eps (1e-8), weight_decay (0), amsgrad (false).
OptimizerPtr make_adam(Config& config, std::vector<torch::Tensor> parameters);
/// As Adam, weight_decay (1e-2) decoupled from the gradient.
OptimizerPtr make_adamw(Config& config, std::vector<torch::Tensor> parameters);
/// lr (1e-3), momentum (0), dampening (0), weight_decay (0), nesterov (false; needs momentum and no
/// dampening).
OptimizerPtr make_sgd(Config& config, std::vector<torch::Tensor> parameters);
/// lr (1e-2), alpha (0.99), eps (1e-8), weight_decay (0), momentum (0), centered (false).
OptimizerPtr make_rmsprop(Config& config, std::vector<torch::Tensor> parameters);
/// lr (1e-2), lr_decay (0), weight_decay (0), initial_accumulator_value (0), eps (1e-10).
OptimizerPtr make_adagrad(Config& config, std::vector<torch::Tensor> parameters);

}  // namespace halfstep::train
