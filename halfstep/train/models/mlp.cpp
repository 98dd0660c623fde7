#include "halfstep/train/models/mlp.h"

#include "halfstep/core/error.h"

#include <algorithm>
#include <map>

#include <ATen/ops/gelu.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/tanh.h>

namespace halfstep::train {
namespace {

using Activation = std::function<torch::Tensor(const torch::Tensor&)>;

const std::map<std::string, Activation>& activations() {
  static const std::map<std::string, Activation> table{
      {"gelu", [](const torch::Tensor& x) { return at::gelu(x); }},
      {"relu", [](const torch::Tensor& x) { return at::relu(x); }},
      {"sigmoid", [](const torch::Tensor& x) { return at::sigmoid(x); }},
      {"silu", [](const torch::Tensor& x) { return at::silu(x); }},
      {"tanh", [](const torch::Tensor& x) { return at::tanh(x); }},
  };
  return table;
}

constexpr const char* sizes_rule = "must be at least two sizes (inputs, outputs) of at least 1";
constexpr const char* activation_rule = "must be one of gelu, relu, sigmoid, silu and tanh";

bool good_sizes(const std::vector<int64_t>& sizes) {
  return sizes.size() >= 2 && std::all_of(sizes.begin(), sizes.end(), [](auto n) { return n > 0; });
}

}  // namespace

Mlp::Mlp(const Options& options) {
  HALFSTEP_CHECK_USAGE(good_sizes(options.sizes), "Mlp", "sizes ", sizes_rule, ", but got ",
                       c10::IntArrayRef(options.sizes));
  const auto found = activations().find(options.activation);
  HALFSTEP_CHECK_USAGE(found != activations().end(), "Mlp", "activation ", activation_rule,
                       ", but got ", options.activation);
  inputs_ = options.sizes[0];
  activation_ = found->second;
  for (size_t i = 1; i < options.sizes.size(); ++i)
    layers_.push_back(register_module("fc" + std::to_string(i),
                                      nn::Linear(options.sizes[i - 1], options.sizes[i])));
}

torch::Tensor Mlp::forward(const torch::Tensor& input) {
  HALFSTEP_CHECK_USAGE(input.dim() >= 1 && input.numel() == input.size(0) * inputs_, "Mlp::forward",
                       "input must have ", inputs_, " numbers in each example, but got shape ",
                       input.sizes(), "; set the model's sizes to the data's");
  auto x = input.reshape({input.size(0), inputs_});
  for (size_t i = 0; i < layers_.size(); ++i) {
    if (i > 0) x = activation_(x);
    x = layers_[i](x);
  }
  return x;
}

std::shared_ptr<Model> make_mlp(Config& config) {
  Mlp::Options options;
  options.sizes = config.get("sizes", options.sizes);
  if (!good_sizes(options.sizes)) config.fail("sizes", sizes_rule);
  options.activation = config.get("activation", options.activation);
  if (!activations().contains(options.activation)) config.fail("activation", activation_rule);
  return std::make_shared<Mlp>(options);
}

}  // namespace halfstep::train
