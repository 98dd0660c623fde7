#pragma once
#include <torch/nn/module.h>

namespace halfstep::detail {

/// Whether a layer of the model normalises over the examples of a batch, or keeps statistics of
/// batches (buffers running_mean and running_var).
bool counts_batches(const torch::nn::Module& model);

}  // namespace halfstep::detail
