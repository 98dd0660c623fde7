#pragma once
#include "halfstep/train/optim/optimizers.h"

#include <memory>
#include <string>
#include <vector>

#include <torch/nn/module.h>

namespace halfstep::train {

/// An optimizer over the parameters of a module.
struct BuiltOptimizer {
  OptimizerPtr optimizer;
  std::vector<std::string> parameter_names;  ///< in the optimizer's order, group by group
  /// "paramwise_options -- bn.bias:weight_decay=0", one for each option paramwise_cfg gave.
  std::vector<std::string> notes;
  std::vector<std::string> warnings;  ///< what paramwise_cfg passed over
};

/// Builds `optimizer` of an optim_wrapper for those parameters of `module` that require gradients
/// (each once, whatever its names), in groups where the mapping has a `paramwise_cfg` (see
/// ParamwiseRules).
///
/// A group's options are what the optimizer's own factory makes of its mapping with the group's
/// values in place: any registered optimizer takes any of its options in custom_keys. Difference
/// from MMEngine, which makes a group of each parameter: parameters with the same options share a
/// group, so that a fused kernel is called once for all of them; each parameter's options are the
/// same. The group without options of its own comes first: the log's learning rate is the config's.
///
/// `prefix` ("generator.") is put before the names. Throws UsageError with file and line as the
/// optimizer and ParamwiseRules do, and where there is nothing to train.
BuiltOptimizer build_optimizer(Config& optim_wrapper, const torch::nn::Module& module,
                               const std::string& prefix = "");

}  // namespace halfstep::train
