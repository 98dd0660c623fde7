#pragma once
#include "halfstep/optim/fused_options.h"

#include <memory>
#include <string>
#include <vector>

#include <torch/optim/optimizer.h>

namespace halfstep::testing {

using OptimizerPtr = std::unique_ptr<torch::optim::Optimizer>;

/// The four classes, for tests whose body is the same for all.
inline const std::vector<std::string> kFusedClasses{"Adam", "AdamW", "SGD", "Adagrad"};

/// A fused optimizer by class name with options that use all of its state: amsgrad, momentum,
/// weight decay. lr 0.1 throughout.
OptimizerPtr make_fused(const std::string& name, std::vector<at::Tensor> parameters,
                        bool maximize = false, optim::Kernel kernel = optim::Kernel::automatic,
                        optim::MasterWeights masters = optim::MasterWeights::none);

/// LibTorch's own class with the same options.
OptimizerPtr make_stock(const std::string& name, std::vector<at::Tensor> parameters);

}  // namespace halfstep::testing
