#pragma once
#include <vector>

#include <torch/nn/modules/linear.h>
#include <torch/types.h>

#include <gtest/gtest.h>

namespace halfstep::testing {

/// Two layers, of which a forward may use one.
struct NetImpl : torch::nn::Module {
  explicit NetImpl(int64_t width = 7)
      : first(register_module("first", torch::nn::Linear(5, width))),
        second(register_module("second", torch::nn::Linear(width, 3))),
        spare(register_module("spare", torch::nn::Linear(width, 3))) {}
  torch::Tensor forward(const torch::Tensor& x, bool use_spare = true) {
    const auto hidden = torch::tanh(first->forward(x));
    const auto y = second->forward(hidden);
    return use_spare ? y + spare->forward(hidden) : y;
  }
  torch::nn::Linear first, second, spare;
};
TORCH_MODULE(Net);

/// The same on every rank and in every run; `rank` < 0: all ranks' examples.
inline torch::Tensor examples(int rank, int ranks, int step = 0) {
  torch::manual_seed(100 + static_cast<uint64_t>(step));
  const auto all = torch::randn({4 * ranks, 5});
  return rank < 0 ? all : all.slice(0, 4 * rank, 4 * rank + 4);
}

inline Net net_of_seed(uint64_t seed) {
  torch::manual_seed(seed);
  return Net();
}

inline std::vector<torch::Tensor> gradients(const Net& net) {
  std::vector<torch::Tensor> result;
  for (const auto& parameter : net->parameters()) result.push_back(parameter.grad());
  return result;
}

/// What one process with all examples gets.
inline std::vector<torch::Tensor> gradients_of_all(int ranks, int step = 0, bool use_spare = true) {
  auto net = net_of_seed(1);
  net->forward(examples(-1, ranks, step), use_spare).square().mean().backward();
  return gradients(net);
}

inline void expect_close(const std::vector<torch::Tensor>& got,
                         const std::vector<torch::Tensor>& wanted, double tolerance) {
  ASSERT_EQ(got.size(), wanted.size());
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_EQ(got[i].defined(), wanted[i].defined()) << "parameter " << i;
    if (!got[i].defined()) continue;
    EXPECT_TRUE(torch::allclose(got[i], wanted[i], tolerance, tolerance * 0.1))
        << "parameter " << i << ":\n"
        << got[i] << "\nwanted\n"
        << wanted[i];
  }
}

}  // namespace halfstep::testing
