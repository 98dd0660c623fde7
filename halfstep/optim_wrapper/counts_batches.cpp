#include "halfstep/optim_wrapper/counts_batches.h"

#include <algorithm>

#include <torch/nn/modules/batchnorm.h>

namespace halfstep::detail {

namespace {

bool is_batch_norm(const torch::nn::Module& layer) {
  if (layer.as<torch::nn::BatchNorm1d>() || layer.as<torch::nn::BatchNorm2d>() ||
      layer.as<torch::nn::BatchNorm3d>())
    return true;
  const auto buffers = layer.named_buffers(/*recurse=*/false);
  return buffers.contains("running_mean") && buffers.contains("running_var");
}

bool any_below(const torch::nn::Module& module) {
  const auto children = module.children();
  return std::any_of(children.begin(), children.end(),
                     [](const auto& child) { return counts_batches(*child); });
}

}  // namespace

// By hand: modules() needs a model that a shared_ptr owns.
bool counts_batches(const torch::nn::Module& model) {
  return is_batch_norm(model) || any_below(model);
}

}  // namespace halfstep::detail
