#pragma once
#include <vector>

#include <ATen/core/Tensor.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/linear.h>
#include <torch/nn/pimpl.h>
#include <torch/types.h>

namespace halfstep::testing {

/// Two 1×1 convolutions, as in MMEngine's tests of the wrappers.
struct ToyModelImpl : torch::nn::Module {
  torch::nn::Conv2d conv1 = register_module("conv1", torch::nn::Conv2d(1, 1, 1));
  torch::nn::Conv2d conv2 = register_module("conv2", torch::nn::Conv2d(1, 1, 1));
  at::Tensor forward(const at::Tensor& x) { return conv2(conv1(x)); }
};
TORCH_MODULE(ToyModel);

/// Linear(3, 2) with all parameters 1, as in MMCV's tests of accumulation.
struct OnesModelImpl : torch::nn::Module {
  torch::nn::Linear fc = register_module("fc", torch::nn::Linear(3, 2));
  explicit OnesModelImpl(c10::Device device = c10::kCPU) {
    const torch::NoGradGuard no_grad;
    fc->weight.fill_(1);
    fc->bias.fill_(1);
    to(device);
  }
  at::Tensor forward(const at::Tensor& x) { return fc(x); }
};
TORCH_MODULE(OnesModel);

/// Copies of a model's parameters.
inline std::vector<at::Tensor> copies(const torch::nn::Module& model) {
  std::vector<at::Tensor> result;
  for (const auto& parameter : model.parameters()) result.push_back(parameter.detach().clone());
  return result;
}

}  // namespace halfstep::testing
