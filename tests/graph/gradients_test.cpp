// What gradients and versions are after a replay, and after one that threw.
#include "halfstep/core/error.h"
#include "halfstep/graph.h"
#include "halfstep/optim.h"

#include <utility>

#include <torch/nn/functional/embedding.h>
#include <torch/optim/lbfgs.h>

#include "tests/graph/step_test.h"
#include "tests/support/errors.h"
#include <gtest/gtest.h>

namespace {

using halfstep::UsageError;
using halfstep::optim::Adam;
using halfstep::optim::AdamOptions;
using halfstep::testing::Mlp;
using halfstep::testing::same_bits;
using halfstep::testing::Step;
using torch::Tensor;

class GraphGradients : public halfstep::testing::StepTest {};

TEST_P(GraphGradients, AreGoneAfterAStepOfItsOptimizers) {
  auto net = mlp();
  Adam adam(net->parameters(), AdamOptions(1e-2));
  Step step(net, training(net));
  step.add_optimizer(adam);
  for (int i = 0; i < 5; ++i) {
    step(random({8, 12}));
    for (const auto& parameter : net->parameters()) EXPECT_FALSE(parameter.grad().defined()) << i;
  }
  EXPECT_EQ(step.replayed_steps(), 3);
}

TEST_P(GraphGradients, AreAddedToTheTensorThatIsThere) {
  auto net = mlp();
  Step step(net, training(net));
  warm_up(step, random({8, 12}));
  net->zero_grad();
  const auto x = random({8, 12});
  step(x);
  const auto gradient = net->first->weight.grad();
  const auto once = gradient.clone();
  step(x);
  EXPECT_TRUE(net->first->weight.grad().is_same(gradient));
  EXPECT_TRUE(same_bits({once * 2}, {gradient}));
  net->zero_grad();
  step(x);
  EXPECT_FALSE(net->first->weight.grad().is_same(gradient));
  EXPECT_TRUE(same_bits({once * 2}, {gradient})) << "a gradient that was kept was written";
}

TEST_P(GraphGradients, OnlyWhatIsWrittenGetsANewVersion) {
  auto net = mlp();
  net->second->bias.requires_grad_(false);
  Adam adam(net->parameters(), AdamOptions(1e-2));
  Step train(net, training(net)),
      test(net, [net = net](const Tensor&x) mutable { return net->forward(x); });
  train.add_optimizer(adam);
  for (int i = 0; i < 5; ++i) {
    const auto weight = net->first->weight._version(), frozen = net->second->bias._version();
    test(random({8, 12}));
    EXPECT_EQ(net->first->weight._version(), weight);
    train(random({8, 12}));
    EXPECT_GT(net->first->weight._version(), weight);
    EXPECT_EQ(net->second->bias._version(), frozen);
  }
  EXPECT_EQ(train.replayed_steps(), 3);
  EXPECT_EQ(test.replayed_steps(), 3);
}

TEST_P(GraphGradients, AutogradNoticesThatAReplayWroteWhatItSaved) {
  const auto buffer = random({3});
  Step step([&](const Tensor& x) { return buffer.add_(x).sum(); });
  step.add_tensor("buffer", buffer);
  warm_up(step, random({3}));
  const auto weight = random({3}).requires_grad_();
  const auto loss = (weight * buffer).sum();
  step(random({3}));
  EXPECT_EQ(step.last_reason(), "");
  EXPECT_THROW(loss.backward(), c10::Error);
}

HALFSTEP_ON_EACH_DEVICE(GraphGradients);

// An index out of range would end a GPU's context.
TEST(GraphErrors, AReplayThatThrowsLeavesGradientsAndTheGraphUsable) {
  torch::manual_seed(2);
  torch::nn::Embedding table(5, 3);
  const auto function = [&](const Tensor& x) {
    const auto loss = table->forward(x).relu().sum(0).exp().sum();
    loss.backward();
    return loss;
  };
  Step step(table, function);
  const auto indices = [](int64_t last) {
    return torch::tensor({int64_t{0}, int64_t{3}, int64_t{3}, last}, torch::kLong);
  };
  for (int i = 0; i < 4; ++i) {
    table->zero_grad();
    step(indices(i));
  }
  EXPECT_EQ(step.replayed_steps(), 2);
  const auto before = table->weight.grad(), copy = before.clone();
  EXPECT_THROW(step(indices(5)), std::exception);
  EXPECT_TRUE(table->weight.grad().is_same(before));
  EXPECT_TRUE(same_bits({copy}, {before}));
  for (int i = 0; i < 4; ++i) {
    table->zero_grad();
    const auto expected = function(indices(i));
    const auto gradient = table->weight.grad();
    table->zero_grad();
    EXPECT_TRUE(same_bits({expected.detach(), gradient}, {step(indices(i)), table->weight.grad()}));
  }
}

TEST(GraphErrors, APartThatThrowsTakesTheEarlierOnesBack) {
  torch::nn::Embedding table(5, 3);
  Step step(table, [&](const Tensor& x) {
    const auto loss = table->forward(x).square().sum();
    loss.backward();
    return loss;
  });
  step.config().set_gradient_accumulation_steps(2);
  const auto good = torch::tensor({0, 1, 2, 3}, torch::kLong);
  const auto bad = torch::tensor({0, 1, 2, 5}, torch::kLong);
  for (int i = 0; i < 4; ++i) {
    table->zero_grad();
    EXPECT_THROW(step(bad), std::exception) << i;
    EXPECT_FALSE(table->weight.grad().defined()) << i;
    step(good);
    const auto gradient = table->weight.grad(), copy = gradient.clone();
    EXPECT_THROW(step(bad), std::exception) << i;
    EXPECT_TRUE(table->weight.grad().is_same(gradient)) << i;
    EXPECT_TRUE(same_bits({copy}, {gradient})) << i;
    for (int k = 0; k < 2; ++k) step(good);
  }
  EXPECT_GT(step.replayed_steps(), 3);
}

TEST(GraphErrors, AnOptimizerThatCallsBackIsAnError) {
  Mlp net;
  torch::optim::LBFGS optimizer(net->parameters());
  Step step(net, [&](const Tensor& x) { return net->forward(x); });
  EXPECT_ERROR(step.add_optimizer(optimizer), UsageError,
               "[Graph::add_optimizer] an optimizer must step without a closure, but got an LBFGS",
               "call its step() yourself");
}

}  // namespace
