#pragma once
#include <string>
#include <vector>

#include <ATen/ops/equal.h>
#include <torch/nn.h>
#include <torch/types.h>

#include <gtest/gtest.h>

namespace halfstep::testing {

/// 12-16-4.
struct MlpImpl : torch::nn::Module {
  MlpImpl() {
    first = register_module("first", torch::nn::Linear(12, 16));
    second = register_module("second", torch::nn::Linear(16, 4));
  }
  torch::Tensor forward(const torch::Tensor& x) { return second(torch::relu(first(x))); }
  torch::nn::Linear first{nullptr}, second{nullptr};
};
TORCH_MODULE(Mlp);

/// Convolution, batch norm, dropout, pooling, linear for 1 × 8 × 8 images.
struct ConvNetImpl : torch::nn::Module {
  explicit ConvNetImpl(double dropout = 0.5) {
    convolution = register_module("convolution",
                                  torch::nn::Conv2d(torch::nn::Conv2dOptions(1, 6, 3).padding(1)));
    norm = register_module("norm", torch::nn::BatchNorm2d(6));
    drop = register_module("drop", torch::nn::Dropout(dropout));
    linear = register_module("linear", torch::nn::Linear(6 * 4 * 4, 4));
  }
  torch::Tensor forward(const torch::Tensor& x) {
    const auto seen = torch::max_pool2d(torch::relu(norm(convolution(x))), 2);
    return linear(drop(seen.flatten(1)));
  }
  torch::nn::Conv2d convolution{nullptr};
  torch::nn::BatchNorm2d norm{nullptr};
  torch::nn::Dropout drop{nullptr};
  torch::nn::Linear linear{nullptr};
};
TORCH_MODULE(ConvNet);

/// How often `part` is found in `text`.
inline int64_t count_of(const std::string& text, const std::string& part) {
  int64_t count = 0;
  for (auto at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

/// Copies of all parameters and buffers.
inline std::vector<torch::Tensor> state_of(const torch::nn::Module& module) {
  std::vector<torch::Tensor> state;
  for (const auto& parameter : module.parameters()) state.push_back(parameter.detach().clone());
  for (const auto& buffer : module.buffers()) state.push_back(buffer.clone());
  return state;
}

/// Whether all have the same bits; says which does not.
inline ::testing::AssertionResult same_bits(const std::vector<torch::Tensor>& a,
                                            const std::vector<torch::Tensor>& b) {
  if (a.size() != b.size()) return ::testing::AssertionFailure() << "different counts";
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i].scalar_type() != b[i].scalar_type() || !at::equal(a[i], b[i]))
      return ::testing::AssertionFailure()
             << "tensor " << i << " of " << a.size() << " differs by "
             << (a[i].sizes() == b[i].sizes() && a[i].numel() > 0
                     ? (a[i].to(torch::kDouble) - b[i].to(torch::kDouble))
                           .abs()
                           .max()
                           .item<double>()
                     : -1);
  }
  return ::testing::AssertionSuccess();
}

}  // namespace halfstep::testing
