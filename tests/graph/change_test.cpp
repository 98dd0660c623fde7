// What changes between calls beside the inputs (inputs_test.cpp) is read as it is or recorded anew,
// with the bits of eager code.
#include "halfstep/autocast.h"
#include "halfstep/core.h"
#include "halfstep/graph.h"
#include "halfstep/graph/recorder.h"
#include "halfstep/optim.h"

#include <stdexcept>

#include <ATen/autocast_mode.h>
#include <torch/autograd.h>

#include "tests/graph/step_test.h"
#include "tests/support/errors.h"
#include <gtest/gtest.h>

namespace {

using halfstep::Graph;
using halfstep::UsageError;
using halfstep::testing::ConvNet;
using halfstep::testing::Mlp;
using halfstep::testing::same_bits;
using halfstep::testing::state_of;
using halfstep::testing::Step;
using torch::Tensor;

class GraphChange : public halfstep::testing::StepTest {};

TEST_P(GraphChange, AnotherTensorInTheModuleIsSeen) {
  auto net = mlp();
  const auto function = [&](const Tensor& x) { return net->forward(x); };
  Step step(net, function);
  const auto x = random({8, 12});
  warm_up(step, x);
  net->second->bias = torch::ones_like(net->second->bias);
  EXPECT_ERROR(step(x), UsageError, "operand", "is none of them");  // not registered any more
  net->second->register_parameter("other", net->second->bias);
  EXPECT_TRUE(same_bits({net->forward(x).detach()}, {step(x)}));
}

TEST_P(GraphChange, AModuleInAnothersPlaceIsSeen) {
  torch::nn::Sequential net(torch::nn::Linear(12, 4));
  net->to(device());
  const auto function = [&](const Tensor& x) { return net->forward(x); };
  Step step(net, function);
  warm_up(step, random({8, 12}));
  torch::nn::Linear other(12, 4);
  other->to(device());
  net->replace_module("0", other.ptr());
  auto named = [&](const Tensor& x) {
    return net->named_children()["0"]->as<torch::nn::Linear>()->forward(x);
  };
  step.function = named;
  expect_same(step, named, {random({8, 12})});
  EXPECT_EQ(step.last_reason(), "a torch::nn::LinearImpl was registered or put in another's place");
  for (int i = 0; i < 2; ++i) step(random({8, 12}));
  EXPECT_EQ(step.last_reason(), "");
  net->push_back(torch::nn::Linear(4, 4));
  net->to(device());
  step(random({8, 12}));
  EXPECT_EQ(step.last_reason(), "a torch::nn::LinearImpl was registered or put in another's place");
}

TEST_P(GraphChange, AParameterThatIsAddedBetweenTwoShapes) {
  auto net = mlp();
  Tensor added;
  Step step(net, [&](const Tensor& x) {
    auto loss = net->forward(x).square().sum();
    if (added.defined() && x.size(0) == 5) loss = loss + added.square().sum();
    loss.backward();
    return loss;
  });
  const auto large = random({8, 12}), small = random({5, 12});
  warm_up(step, large);
  const auto gradients = [&](const Tensor& x) {
    step.zero_grad();
    step(x);
    std::vector<Tensor> all;
    for (const auto& parameter : step.parameters()) all.push_back(parameter.grad().clone());
    return all;
  };
  const auto expected = gradients(large);
  added = net->register_parameter("a", random({3}));  // first of its module's
  for (int i = 0; i < 3; ++i) EXPECT_EQ(gradients(small).size(), 5U);
  step.zero_grad();
  step(large);
  std::vector<Tensor> got;
  for (const auto& parameter : step.parameters()) {
    if (parameter.grad().defined()) got.push_back(parameter.grad());
  }
  EXPECT_TRUE(same_bits(expected, got));
}

TEST_P(GraphChange, OtherMemoryInAParameterIsSeen) {
  auto net = mlp();
  const auto function = [&](const Tensor& x) { return net->forward(x); };
  Step step(net, function);
  warm_up(step, random({8, 12}));
  net->second->weight.set_data(random({4, 16}));
  expect_same(step, function, {random({8, 12})});
  net->to(torch::kDouble);
  expect_same(step, function, {random({8, 12}).to(torch::kDouble)});
  EXPECT_EQ(step.last_reason(), "net.first.weight became float64[16, 12]");
}

TEST_P(GraphChange, AFrozenParameterIsSeen) {
  auto net = mlp();
  Step step(net, [&](const Tensor& x) {
    const auto loss = net->forward(x).sum();
    loss.backward();
    return loss;
  });
  warm_up(step, random({8, 12}));
  net->zero_grad();
  net->first->weight.requires_grad_(false);
  step(random({8, 12}));
  EXPECT_EQ(step.last_reason(), "net.first.weight was frozen");
  EXPECT_FALSE(net->first->weight.grad().defined());
  EXPECT_TRUE(net->first->bias.grad().defined());
  for (int i = 0; i < 2; ++i) step(random({8, 12}));
  EXPECT_EQ(step.replayed_steps(), 2);
  net->first->weight.requires_grad_(true);
  step(random({8, 12}));
  EXPECT_EQ(step.last_reason(), "net.first.weight was unfrozen");
  EXPECT_TRUE(net->first->weight.grad().defined());
}

TEST_P(GraphChange, LoadedAndAveragedWeightsAreRead) {
  auto net = mlp();
  auto other = mlp();
  const auto function = [&](const Tensor& x) { return net->forward(x); };
  Step step(net, function);
  warm_up(step, random({8, 12}));
  {
    const torch::NoGradGuard no_grad;
    const auto from = other->parameters();
    const auto to = net->parameters();
    for (size_t i = 0; i < to.size(); ++i) to[i].copy_(from[i]);  // as load_state_dict
    for (size_t i = 0; i < to.size(); ++i) to[i].lerp_(from[i] * 2, 0.1);
  }
  expect_same(step, function, {random({8, 12})});
  EXPECT_EQ(step.last_reason(), "");
}

TEST_P(GraphChange, RunningStatisticsMoveAndGetAVersion) {
  ConvNet net(0.0), other(0.0);
  net->to(device());
  other->to(device());
  Step step(net, [&](const Tensor& x) { return net->norm(x); });
  const auto before = net->norm->running_mean.clone();
  for (int i = 0; i < 4; ++i) {
    const auto x = random({4, 6, 3, 3});
    const auto version = net->norm->running_mean._version();
    step(x);
    other->norm(x);
    // LibTorch's own batch norm gives them none.
    const bool replayed = step.replayed_steps() > 0;
    EXPECT_TRUE(!replayed || net->norm->running_mean._version() > version);
  }
  EXPECT_TRUE(same_bits(state_of(*other->norm), state_of(*net->norm)));
  EXPECT_FALSE(same_bits({before}, {net->norm->running_mean}));
}

TEST_P(GraphChange, TrainAndEvalAreRecordedApart) {
  ConvNet net(0.0);
  net->to(device());
  Step step(net, [&](const Tensor& x) { return net->norm(x); });
  const auto x = random({4, 6, 3, 3});
  warm_up(step, x);
  net->eval();
  const auto expected = net->norm(x).detach();
  EXPECT_TRUE(same_bits({expected}, {step(x)}));
  EXPECT_EQ(step.last_reason(), "train() or eval() was called on a halfstep::testing::ConvNetImpl");
}

TEST_P(GraphChange, DropoutStaysRandomAndReproducible) {
  const auto function = [](const Tensor& x) { return torch::dropout(x, 0.5, true); };
  Step step(function);
  const auto x = torch::ones({64}, device());
  warm_up(step, x);
  EXPECT_FALSE(at::equal(step(x), step(x)));
  torch::manual_seed(9);
  const auto expected = function(x);
  torch::manual_seed(9);
  EXPECT_TRUE(same_bits({expected}, {step(x)}));
}

TEST_P(GraphChange, AnExceptionInBuildLeavesGradientsAndTheGraphUsable) {
  auto net = mlp();
  bool fail = false;
  const auto function = [&](const Tensor& x) {
    const auto loss = net->forward(x).sum();
    loss.backward();
    if (fail) throw std::runtime_error("from build");
    return loss;
  };
  Step step(net, function);
  step(random({8, 12}));
  const auto gradient = net->first->weight.grad().clone();
  fail = true;
  EXPECT_THROW(step(random({8, 12})), std::runtime_error);
  EXPECT_TRUE(same_bits({gradient}, {net->first->weight.grad()}));
  EXPECT_EQ(halfstep::detail::Recorder::current(), nullptr);
  fail = false;
  net->zero_grad();
  warm_up(step, random({8, 12}));
}

TEST_P(GraphChange, TwoGraphsOverOneModel) {
  auto net = mlp();
  halfstep::optim::Adam adam(net->parameters(), halfstep::optim::AdamOptions(1e-2));
  Step train(net, [&](const Tensor& x) {
    const auto loss = net->forward(x).square().mean();
    loss.backward();
    return loss;
  });
  train.add_optimizer(adam);
  const auto evaluate = [&](const Tensor& x) { return net->forward(x); };
  Step test(net, evaluate);
  for (int i = 0; i < 4; ++i) {
    train(random({8, 12}));
    expect_same(test, evaluate, {random({8, 12})});
  }
  EXPECT_EQ(train.replayed_steps(), 2);
  EXPECT_EQ(test.replayed_steps(), 2);
}

TEST_P(GraphChange, DoubleBackward) {
  auto net = mlp(), other = mlp();
  {
    const torch::NoGradGuard no_grad;
    for (size_t i = 0; i < net->parameters().size(); ++i)
      other->parameters()[i].copy_(net->parameters()[i]);
  }
  const auto penalised = [](Mlp& of, const Tensor& x) {
    const auto loss = of->forward(x).square().mean();
    const auto gradients =
        torch::autograd::grad({loss}, {of->first->weight}, {}, true, /*create_graph=*/true);
    const auto total = loss + gradients[0].square().sum();
    total.backward();
    return total;
  };
  Step step(net, [&](const Tensor& x) { return penalised(net, x); });
  for (int i = 0; i < 4; ++i) {
    const auto x = random({8, 12});
    net->zero_grad();
    other->zero_grad();
    const auto result = step(x);
    EXPECT_TRUE(same_bits({penalised(other, x).detach()}, {result}));
    EXPECT_TRUE(same_bits({other->first->weight.grad()}, {net->first->weight.grad()}));
  }
  EXPECT_EQ(step.replayed_steps(), 2);
}

TEST_P(GraphChange, AHookOnATensor) {
  auto net = mlp(), other = mlp();
  const auto hooked = [](Mlp& of, const Tensor& x) {
    auto hidden = of->first(x);
    hidden.register_hook([](const Tensor& gradient) { return gradient * 3; });
    const auto loss = of->second(hidden).sum();
    loss.backward();
    return loss;
  };
  for (size_t i = 0; i < net->parameters().size(); ++i)
    other->parameters()[i].set_data(net->parameters()[i].detach());
  Step step(net, [&](const Tensor& x) { return hooked(net, x); });
  for (int i = 0; i < 4; ++i) {
    const auto x = random({8, 12});
    net->zero_grad();
    other->zero_grad();
    step(x);
    hooked(other, x);
    EXPECT_TRUE(same_bits({other->first->weight.grad()}, {net->first->weight.grad()}));
  }
}

TEST_P(GraphChange, GradientsAddUpAcrossCallsWithoutOptimizers) {
  auto net = mlp();
  Step step(net, [&](const Tensor& x) {
    const auto loss = net->forward(x).sum();
    loss.backward();
    return loss;
  });
  const auto x = random({8, 12});
  warm_up(step, x);
  net->zero_grad();
  step(x);
  const auto once = net->first->weight.grad().clone();
  step(x);
  EXPECT_TRUE(same_bits({once + once}, {net->first->weight.grad()}));
}

TEST_P(GraphChange, OutputsOfEarlierCallsStay) {
  Step step([](const Tensor& x) { return x * 2; });
  warm_up(step, random({3}));
  const auto a = random({3}), b = random({3});
  const auto of_a = step(a), of_b = step(b);
  EXPECT_TRUE(same_bits({a * 2, b * 2}, {of_a, of_b}));
  EXPECT_FALSE(of_a.requires_grad());
}

TEST_P(GraphChange, ACastCacheFromBeforeIsNotRecorded) {
  auto net = mlp();
  const auto x = random({8, 12});
  const halfstep::Autocast around(device().type());
  net->forward(x);  // fills the cache
  Step step(net, [&](const Tensor& y) { return net->forward(y); });
  step.config().enable_amp();
  const auto before = step(x);
  step(x);
  {
    const torch::NoGradGuard no_grad;
    net->second->weight.mul_(2);
  }
  at::autocast::clear_cache();
  const auto expected = net->forward(x).detach();
  EXPECT_TRUE(same_bits({expected}, {step(x)}));
  EXPECT_EQ(step.replayed_steps(), 1);
  EXPECT_FALSE(at::equal(before, expected));
}

HALFSTEP_ON_EACH_DEVICE(GraphChange);

}  // namespace
