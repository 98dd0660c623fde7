#include "halfstep/autocast/autocast.h"
#include "halfstep/core/dtype.h"

#include <torch/torch.h>

#include "tests/support/devices.h"
#include "tests/support/tolerance.h"

namespace halfstep {

namespace {

struct Shape {
  int64_t layers;
  bool bidirectional;
  bool bias;
  bool batch_first;
  double dropout;
};

std::vector<Shape> shapes() {
  std::vector<Shape> all;
  for (const int64_t layers : {1, 2}) {
    for (const bool bidirectional : {false, true}) {
      for (const bool bias : {false, true}) {
        for (const bool batch_first : {false, true}) {
          all.push_back({layers, bidirectional, bias, batch_first, 0.0});
          if (layers > 1) all.push_back({layers, bidirectional, bias, batch_first, 0.3});
        }
      }
    }
  }
  return all;
}

template <class Options>
Options configure(Options options, const Shape& shape) {
  return options.num_layers(shape.layers)
      .bidirectional(shape.bidirectional)
      .bias(shape.bias)
      .batch_first(shape.batch_first)
      .dropout(shape.dropout);
}

struct Run {
  torch::Tensor output;
  std::vector<torch::Tensor> grads;
};

template <class Module>
Run forward_backward(Module& module, const torch::Tensor& input) {
  torch::manual_seed(5);  // dropout's
  Run run;
  run.output = std::get<0>(module->forward(input));
  const auto parameters = module->parameters();
  run.grads = torch::autograd::grad({run.output.to(torch::kFloat).pow(2).sum()}, parameters);
  return run;
}

// A float32 module in a float16 region against a float16 module without autocast.
template <class Module, class Options>
void expect_same_as_half(Options options, const Shape& shape) {
  torch::manual_seed(6);
  Module wide(configure(options, shape));
  wide->to(torch::kCUDA);
  Module half(configure(options, shape));
  half->to(torch::kCUDA);
  {
    const torch::NoGradGuard no_grad;
    const auto from = wide->parameters();
    const auto to = half->parameters();
    for (size_t i = 0; i < from.size(); ++i) to[i].copy_(from[i]);
  }
  half->to(torch::kHalf);
  const auto input = torch::randn({3, 4, 8}, torch::kCUDA);
  Run cast;
  {
    const Autocast autocast(AutocastOptions(torch::kCUDA).dtype(torch::kHalf));
    cast = forward_backward(wide, input);
  }
  const auto expected = forward_backward(half, input.to(torch::kHalf));
  ASSERT_EQ(cast.output.scalar_type(), torch::kHalf);
  testing::expect_same_bits(cast.output, expected.output);
  for (size_t i = 0; i < cast.grads.size(); ++i) {
    EXPECT_EQ(cast.grads[i].scalar_type(), torch::kFloat);
    testing::expect_close(cast.grads[i], expected.grads[i],
                          testing::tolerance(torch::kHalf, "matmul", testing::Direction::backward));
  }
}

}  // namespace

TEST(AutocastRnn, CudaRunsLikeAHalfModule) {
  HALFSTEP_REQUIRE_CUDA(1);
  for (const auto& shape : shapes()) {
    expect_same_as_half<torch::nn::LSTM>(torch::nn::LSTMOptions(8, 8), shape);
    expect_same_as_half<torch::nn::GRU>(torch::nn::GRUOptions(8, 8), shape);
    expect_same_as_half<torch::nn::RNN>(torch::nn::RNNOptions(8, 8), shape);
  }
}

// bfloat16 weights and float32 inputs meet only in a region.
TEST(AutocastRnn, CpuLstmTakesFloat32InputsForBfloat16Weights) {
  HALFSTEP_REQUIRE_BFLOAT16_LSTM(torch::kCPU);
  torch::nn::LSTM lstm(torch::nn::LSTMOptions(1, 1).num_layers(2));
  lstm->to(torch::kBFloat16);
  const auto input = torch::randn({1, 2, 1});
  const std::tuple<torch::Tensor, torch::Tensor> state{torch::randn({2, 2, 1}),
                                                       torch::randn({2, 2, 1})};
  EXPECT_ANY_THROW(lstm->forward(input, state));
  const Autocast autocast(AutocastOptions(torch::kCPU).dtype(torch::kBFloat16));
  const auto output = std::get<0>(lstm->forward(input, state));
  EXPECT_TRUE(is_low_precision(output.scalar_type()));
}

}  // namespace halfstep
