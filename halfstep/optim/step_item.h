#pragma once
#include <cstddef>
#include <vector>

#include <ATen/core/Tensor.h>
#include <torch/optim/optimizer.h>

namespace halfstep::optim::detail {

/// A parameter with a gradient, and where it stands in the optimizer.
struct StepItem {
  at::Tensor parameter, gradient;
  std::size_t group = 0;
};

/// The parameters that have gradients, group by group. Throws UsageError for one that the fused
/// kernels can't take; `where` opens the message. Does not sync.
std::vector<StepItem> collect_items(const torch::optim::Optimizer& optimizer, const char* where);

}  // namespace halfstep::optim::detail
