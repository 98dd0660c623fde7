// OneFlow's tests of AMP in graphs, as tests/fidelity.csv maps them.
#include "halfstep/autocast.h"
#include "halfstep/graph.h"
#include "halfstep/optim.h"
#include "halfstep/scaling.h"

#include <cmath>

#include "tests/graph/steps.h"
#include "tests/support/devices.h"
#include <gtest/gtest.h>

namespace {

using halfstep::Graph;
using torch::Tensor;

class OneflowGraph : public halfstep::testing::DeviceTest {};

/// Σ parameter · input, as in test_multi_tensor_…_update_with_cast.py.
struct Products : Graph<Tensor(std::vector<Tensor>)> {
  explicit Products(const std::vector<Tensor>& values) {
    for (size_t i = 0; i < values.size(); ++i)
      weights.push_back(
          register_parameter("param_" + std::to_string(i), values[i].clone().requires_grad_()));
  }
  Tensor build(const std::vector<Tensor>& inputs) override {
    auto out = torch::matmul(weights[0], inputs[0]);
    for (size_t i = 1; i < weights.size(); ++i) out = out + torch::matmul(weights[i], inputs[i]);
    const auto loss = out.sum();
    loss.backward();
    return loss;
  }
  std::vector<Tensor> weights;
};

/// Trains in bfloat16 with 16-bit copies written by the optimizer, and beside it `update` (of a
/// weight by its gradient) in float64. Compared with OneFlow's tolerance after the first step and
/// with what rounding products to bfloat16 leaves after all of them.
template <class Optimizer, class Options, class Update>
void compare_with_float64(int tensors, const Options& options, const Update& update,
                          c10::Device device) {
  torch::manual_seed(1);
  std::vector<Tensor> values, expected;
  for (int i = 0; i < tensors; ++i) {
    values.push_back(torch::rand({4, 4}, device));
    expected.push_back(values.back().to(torch::kDouble));
  }
  Products graph(values);
  auto with_copies = options;
  Optimizer optimizer(graph.weights, with_copies.shadow_weights(torch::kBFloat16));
  graph.add_optimizer(optimizer);
  graph.config().enable_amp(true, torch::kBFloat16);
  for (int step = 1; step <= 10; ++step) {
    std::vector<Tensor> inputs;
    for (int i = 0; i < tensors; ++i) inputs.push_back(torch::rand({4, 4}, device));
    graph(inputs);
    for (int i = 0; i < tensors; ++i) {
      const auto gradient =
          torch::matmul(torch::ones({4, 4}, device), inputs[size_t(i)].t()).to(torch::kDouble);
      update(size_t(i), step, expected[size_t(i)], gradient);
      const auto& got = graph.weights[size_t(i)];
      EXPECT_TRUE(at::allclose(got.to(torch::kDouble), expected[size_t(i)], 1e-2, 2e-2))
          << "step " << step << " tensor " << i;
      EXPECT_TRUE(at::equal(optimizer.shadow_of(got), got.to(torch::kBFloat16)));
    }
  }
  EXPECT_EQ(graph.replayed_steps(), 8);
  EXPECT_NE(graph.program().find("shadow of"), std::string::npos);
}

TEST_P(OneflowGraph, MultiTensorSgd) {
  for (const int tensors : {4, 6}) {
    for (const double decay : {0.0, 1e-3}) {
      compare_with_float64<halfstep::optim::SGD>(
          tensors, halfstep::optim::SGDOptions(1e-3).weight_decay(decay),
          [&](size_t, int, Tensor& x, const Tensor& gradient) {
            x = x - 1e-3 * (gradient + decay * x);
          },
          device());
    }
  }
}

TEST_P(OneflowGraph, MultiTensorAdam) {
  std::vector<Tensor> m(4), v(4);
  compare_with_float64<halfstep::optim::Adam>(
      4, halfstep::optim::AdamOptions(1e-3).betas({0.99, 0.9}).eps(1e-5),
      [&](size_t i, int step, Tensor& x, const Tensor& gradient) {
        m[i] = m[i].defined() ? 0.99 * m[i] + 0.01 * gradient : 0.01 * gradient;
        v[i] = v[i].defined() ? 0.9 * v[i] + 0.1 * gradient.square() : 0.1 * gradient.square();
        x = x - 1e-3 / (1 - std::pow(0.99, step)) * m[i] /
                    ((v[i] / (1 - std::pow(0.9, step))).sqrt() + 1e-5);
      },
      device());
}

/// Convolution, ReLU, linear and a buffer, as in test_optimization_conf.py.
struct CustomModuleImpl : torch::nn::Module {
  CustomModuleImpl() {
    conv1 = register_module("conv1", torch::nn::Conv2d(torch::nn::Conv2dOptions(1, 1, 5)));
    fc1 = register_module("fc1", torch::nn::Linear(36, 4));
    dummy_buff = register_buffer("dummy_buff", torch::ones({1, 4}));
  }
  Tensor forward(const Tensor& x) { return fc1(torch::relu(conv1(x)).flatten(1)) + dummy_buff; }
  torch::nn::Conv2d conv1{nullptr};
  torch::nn::Linear fc1{nullptr};
  Tensor dummy_buff;
};
TORCH_MODULE(CustomModule);

TEST_P(OneflowGraph, GraphConfig) {
  struct CustomGraph : Graph<Tensor(Tensor)> {
    explicit CustomGraph(CustomModule module) : m(register_module("m", module)) {}
    Tensor build(const Tensor& x) override { return m->forward(x); }
    CustomModule m;
  };
  CustomModule module;
  module->to(device());
  CustomGraph graph(module);
  halfstep::GradScaler scaler(halfstep::dialects::oneflow().init_scale(3000).growth_interval(1000));
  graph.config().enable_amp(true, torch::kBFloat16).set_gradient_accumulation_steps(100);
  graph.set_grad_scaler(scaler);
  EXPECT_TRUE(graph.config().amp_enabled());
  EXPECT_EQ(graph.config().gradient_accumulation_steps(), 100);
  const auto x = torch::randn({200, 1, 10, 10}, device());
  const auto y = graph(x);
  EXPECT_EQ(y.sizes(), (std::vector<int64_t>{200, 4}));
  const halfstep::Autocast autocast(
      halfstep::AutocastOptions(device().type()).dtype(torch::kBFloat16));
  EXPECT_TRUE(at::allclose(y, module->forward(x), 1e-2, 1e-2));
}

TEST_P(OneflowGraph, AutocastHalfMm) {
  const auto a = torch::randn({2, 3}, device()).requires_grad_();
  const auto b = torch::randn({3, 4}, device()).requires_grad_();
  const auto c = torch::randn({2, 4}, device());
  Tensor x, y;
  {
    const halfstep::Autocast autocast(halfstep::AutocastOptions(device().type())
                                          .dtype(torch::kBFloat16)
                                          .policy(halfstep::OpPolicy::oneflow()));
    x = torch::mm(a, b);
    y = x + c;
  }
  EXPECT_EQ(x.scalar_type(), torch::kBFloat16);
  EXPECT_EQ(y.scalar_type(), torch::kFloat);  // not all inputs are low
  (x.to(torch::kFloat) + y).sum().backward();
  EXPECT_EQ(a.grad().scalar_type(), torch::kFloat);
  EXPECT_TRUE(at::allclose(a.grad(), 2 * b.detach().sum(1).expand({2, 3}), 2e-2, 2e-2));
}

HALFSTEP_ON_EACH_DEVICE(OneflowGraph);

}  // namespace
