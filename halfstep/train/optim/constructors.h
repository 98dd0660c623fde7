#pragma once
#include "halfstep/train/optim/build_optimizer.h"
#include "halfstep/train/registry/registry.h"

#include <string>

namespace halfstep::train {

/// A registry of what makes the optimizer of a wrapper, by the names that `constructor:` may have
/// beside the built-in ones; for rules about parameters that paramwise_cfg has not, as rates that
/// fall from layer to layer. A factory is given the wrapper's mapping, of which it reads
/// `optimizer` and keys of its own, the module whose parameters are trained, and what goes before
/// their names ("generator."). Precision, accumulation and clipping stay the trainer's.
///
///   halfstep::train::optim_wrapper_constructors().add(
///       "LayerDecay", [](Config& optim_wrapper, const torch::nn::Module& module,
///                        const std::string& prefix) -> BuiltOptimizer { … });
using OptimWrapperConstructorRegistry =
    Registry<BuiltOptimizer, const torch::nn::Module&, const std::string&>;

/// The registry. Fill it before threads start.
OptimWrapperConstructorRegistry& optim_wrapper_constructors();

/// Builds the optimizer of a wrapper by its `constructor`, or by build_optimizer where that is
/// DefaultOptimWrapperConstructor or missing. Throws UsageError with file and line for one that is
/// none of a single optimizer.
BuiltOptimizer construct_optimizer(Config& optim_wrapper, const torch::nn::Module& module,
                                   const std::string& prefix);

}  // namespace halfstep::train
