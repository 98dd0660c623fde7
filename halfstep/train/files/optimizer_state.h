#pragma once
#include "halfstep/train/files/checkpoint.h"

#include <string>
#include <vector>

#include <torch/nn/module.h>
#include <torch/optim/optimizer.h>

namespace halfstep::train {

/// The names in `module` of an optimizer's parameters, group by group. Throws UsageError for a
/// parameter that is not in the module.
std::vector<std::string> parameter_names(const torch::optim::Optimizer& optimizer,
                                         const torch::nn::Module& module);

/// Puts the whole state of an optimizer into `checkpoint`: per-parameter tensors as
/// "optimizer.<parameter>.<field>" ("optimizer.fc1.weight.exp_avg"), counters and the options of
/// each group (lr, betas, …) as JSON under state["optimizer"].
///
/// Works for every optimizer of LibTorch and for any class that overrides save() and load() with
/// LibTorch's torch::optim::serialize, whatever fields its state has. `param_names` has one name
/// per parameter, group by group. State that belongs to all parameters (LBFGS) is found under the
/// first. The tensors are shared, not copied: save the checkpoint before the next step. Throws
/// UsageError for an optimizer that does not write its state.
void save_optimizer(const torch::optim::Optimizer& optimizer,
                    const std::vector<std::string>& param_names, Checkpoint& checkpoint);

/// Gives an optimizer the state of a checkpoint: the next step has the same bits as in the run that
/// was saved. State goes to its parameter's device. Throws EnvironmentError, before anything is
/// changed, for a checkpoint of another optimizer class, of other groups, or of parameters with
/// other names or shapes. Difference from LibTorch's load(): state of parameters that had none when
/// saved is dropped, and nothing depends on the order of groups in memory.
void load_optimizer(const Checkpoint& checkpoint, const std::vector<std::string>& param_names,
                    torch::optim::Optimizer& optimizer);

}  // namespace halfstep::train
