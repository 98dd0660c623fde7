#pragma once
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <torch/optim/optimizer.h>

namespace halfstep::testing {

/// The bytes of an optimizer's archive.
std::string saved(const torch::optim::Optimizer& optimizer);
void load(torch::optim::Optimizer& optimizer, const std::string& bytes);

/// Parameters of the same values that share nothing.
std::vector<at::Tensor> clones(const std::vector<at::Tensor>& parameters);

}  // namespace halfstep::testing
