#pragma once
#include "halfstep/train/files/checkpoint.h"

#include <torch/nn/module.h>

namespace halfstep::train {

/// Puts every parameter and buffer of `module` into `checkpoint` as "model.<name>". The tensors are
/// shared, not copied: save the checkpoint before the next step.
void save_module(const torch::nn::Module& module, Checkpoint& checkpoint);

/// Copies "model.<name>" into the parameters and buffers of `module`, in place, on their devices.
/// Throws EnvironmentError, before anything is changed, unless names, shapes and dtypes are exactly
/// those of the module; the message names the first few that differ.
void load_module(const Checkpoint& checkpoint, torch::nn::Module& module);

namespace detail {

/// "a, b, c and 4 more"
std::string first_few(const std::vector<std::string>& names);

/// Throws EnvironmentError where lists of what is missing, not expected or different are not all
/// empty. `what` is what the names are: "model", "optimizer".
void check_same_names(const char* what, const std::vector<std::string>& missing,
                      const std::vector<std::string>& unexpected,
                      const std::vector<std::string>& different);

}  // namespace detail
}  // namespace halfstep::train
