#pragma once
#include <optional>

#include <ATen/core/Tensor.h>

namespace halfstep::detail {

/// A float32 weight (a leaf that requires a gradient) as an op gets it: by itself, or as the
/// transpose that torch::nn::Linear passes.
struct WeightUse {
  at::Tensor weight;
  bool transposed = false;
};

/// The weight behind an argument; none where there is none, or where the argument is another part
/// of it. Inference tensors, which have no version, are never weights, and views that take their
/// gradients themselves don't stand for one.
std::optional<WeightUse> weight_behind(const at::Tensor& argument);

/// `copy`, written from `weight`, in the place of a cast of it: the gradient goes to the weight,
/// cast to the dtype it takes. Shares the copy's memory and version counter, so that autograd
/// notices a write before backward. Named ShadowBackward in the graph.
at::Tensor make_alias(const at::Tensor& weight, const at::Tensor& copy);

}  // namespace halfstep::detail
