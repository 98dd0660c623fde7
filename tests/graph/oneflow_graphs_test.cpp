// What OneFlow's tests of nn.Graph on one process do, as tests/fidelity.csv maps them: each step in
// eager code and in a graph, side by side.
#include "halfstep/graph.h"
#include "halfstep/optim.h"

#include <functional>

#include <torch/nn.h>

#include "tests/graph/step_test.h"
#include <gtest/gtest.h>

namespace {

namespace F = torch::nn::functional;
using halfstep::testing::same_bits;
using halfstep::testing::state_of;
using halfstep::testing::Step;
using torch::Tensor;

class OneflowGraphs : public halfstep::testing::StepTest {
 protected:
  /// Trains two equal nets on `loss` (of what the net makes of the input), one of them in a graph.
  void expect_same_training(const std::function<Tensor(const Tensor&)>& loss) const {
    auto eager = mlp(), recorded = mlp();
    torch::nn::utils::vector_to_parameters(
        torch::nn::utils::parameters_to_vector(eager->parameters()), recorded->parameters());
    torch::optim::SGD sgd(eager->parameters(), 0.1), of_graph(recorded->parameters(), 0.1);
    const auto before = state_of(*eager);
    Step step(recorded, [&](const Tensor& x) {
      const auto value = loss(recorded->forward(x));
      value.backward();
      return value;
    });
    step.add_optimizer(of_graph);
    for (int i = 0; i < 5; ++i) {
      const auto x = random({8, 12});
      sgd.zero_grad();
      const auto expected = loss(eager->forward(x));
      expected.backward();
      sgd.step();
      EXPECT_TRUE(same_bits({expected.detach()}, {step(x)}));
    }
    EXPECT_EQ(step.replayed_steps(), 3) << step.last_reason();
    EXPECT_TRUE(same_bits(state_of(*eager), state_of(*recorded)));
    EXPECT_FALSE(same_bits(before, state_of(*eager))) << "nothing was trained";
  }

  /// Calls without gradients, each beginning with the same random numbers.
  void expect_same_results(const Step::Function& function, at::IntArrayRef sizes) const {
    const torch::NoGradGuard no_grad;
    Step step(function);
    Tensor last;
    for (int i = 0; i < 5; ++i) {
      const auto x = random(sizes), own = x.clone();
      torch::manual_seed(uint64_t(i));
      const auto expected = function(x);
      torch::manual_seed(uint64_t(i));
      const auto got = step(own);
      EXPECT_TRUE(same_bits({expected, x}, {got, own}));
      EXPECT_FALSE(last.defined() && at::equal(last, got)) << "the same at each call";
      last = got;
    }
    EXPECT_EQ(step.replayed_steps(), 3) << step.last_reason();
  }
};

TEST_P(OneflowGraphs, Losses) {
  const std::vector<std::pair<const char*, std::function<Tensor(const Tensor&)>>> losses = {
      {"kl_div",
       [](const Tensor& y) {
         return F::kl_div(torch::log_softmax(y, 1), torch::full_like(y, 0.25),
                          F::KLDivFuncOptions(torch::kBatchMean));
       }},
      {"smooth_l1", [](const Tensor& y) { return F::smooth_l1_loss(y, torch::ones_like(y)); }},
      {"binary_cross_entropy",
       [](const Tensor& y) {
         return F::binary_cross_entropy(torch::sigmoid(y), torch::full_like(y, 0.5));
       }},
      {"binary_cross_entropy_with_logits",
       [](const Tensor& y) {
         return F::binary_cross_entropy_with_logits(y, torch::full_like(y, 0.5));
       }},
      {"nll_loss", [](const Tensor& y) {
         return F::nll_loss(torch::log_softmax(y, 1),
                            torch::zeros({y.size(0)}, y.options().dtype(torch::kLong)));
       }}};
  for (const auto& [name, loss] : losses) {
    SCOPED_TRACE(name);
    expect_same_training(loss);
  }
}

TEST_P(OneflowGraphs, ANumberOfNoDimensions) {
  expect_same_results([](const Tensor& x) { return x * 2 + 1; }, {});
  auto scale = torch::full({}, 2.0F, device()).requires_grad_();
  Step step([&](const Tensor& x) {
    const auto loss = (scale * x).square();
    loss.backward();
    return loss;
  });
  step.register_parameter("scale", scale);
  torch::optim::SGD sgd({scale}, 0.125);
  step.add_optimizer(sgd);
  const auto one = torch::ones({}, device());
  double expected = 2;
  for (int i = 0; i < 4; ++i) {
    step(one);
    expected -= 0.125 * 2 * expected;
    EXPECT_EQ(scale.item<double>(), expected);  // exact in float32
  }
  EXPECT_EQ(step.replayed_steps(), 2);
}

TEST_P(OneflowGraphs, RandomOps) {
  for (const auto& function : std::initializer_list<Step::Function>{
           [](const Tensor& x) { return torch::dropout(x, 0.3, true); },
           [](const Tensor& x) { return x + torch::rand_like(x); },
           [](const Tensor& x) {
             return x * torch::randn({4, 4}, x.options());
           },
           [](const Tensor& x) {
             return torch::randint(100, {4, 4}, x.options()) - x;
           },
           [](const Tensor& x) {
             return torch::randperm(16, x.options()).view({4, 4}) + x;
           },
           [](const Tensor& x) { return torch::bernoulli(x.sigmoid()) + x; },
           [](const Tensor& x) { return x.normal_(0, 2); }})
    expect_same_results(function, {4, 4});
}

TEST_P(OneflowGraphs, CopiesDetachedTensorsAndWritesInPlace) {
  expect_same_results([](const Tensor& x) { return x.clone().add_(x) * x.detach(); }, {3, 4});
  expect_same_results([](const Tensor& x) { return x.add_(x.clone()).mul_(2).relu_() + x; },
                      {3, 4});
}

TEST_P(OneflowGraphs, AWeightThatIsUsedTwice) {
  auto net = mlp();
  Step step(net, [&](const Tensor& x) {
    const auto& weight = net->second->weight;  // 4 × 16
    const auto loss = (torch::linear(torch::linear(x, weight), weight.t())).square().mean();
    loss.backward();
    return loss;
  });
  for (int i = 0; i < 4; ++i) {
    const auto x = random({8, 16});
    net->zero_grad();
    const auto& weight = net->second->weight;
    torch::linear(torch::linear(x, weight), weight.t()).square().mean().backward();
    const auto expected = weight.grad().clone();
    net->zero_grad();
    step(x);
    EXPECT_TRUE(same_bits({expected}, {weight.grad()}));
  }
  EXPECT_EQ(step.replayed_steps(), 2);
}

TEST_P(OneflowGraphs, TensorsThatAreNoModulesAndTwoGraphsOverOne) {
  auto table = random({3, 4});
  const auto function = [&](const Tensor& x) { return x + table; };
  Step one(function), other([&](const Tensor&) { return table; }),
      writes([&](const Tensor&x) { return table.add_(x); });
  for (auto* graph : {&one, &other, &writes}) graph->add_tensor("table", table);
  for (int i = 0; i < 4; ++i) {
    const auto x = random({3, 4});
    EXPECT_TRUE(same_bits({x + table}, {one(x)}));
    const auto given = other(x);
    EXPECT_TRUE(same_bits({table}, {given}));
    const auto sum = table + x;
    EXPECT_TRUE(same_bits({sum}, {writes(x)}));
    EXPECT_TRUE(same_bits({sum}, {table}));
  }
  for (auto* graph : {&one, &other, &writes}) EXPECT_EQ(graph->replayed_steps(), 2);
}

HALFSTEP_ON_EACH_DEVICE(OneflowGraphs);

}  // namespace
