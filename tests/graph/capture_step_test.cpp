// When the optimizers' steps and the scaler's update are part of what is captured, and what the
// host does beside a launch. On the CPU over one that only keeps what it captures.
#include "tests/graph/capture_step.h"

#include "halfstep/optim.h"
#include "halfstep/scaling.h"

#include <limits>
#include <memory>

#include "tests/support/errors.h"
#include <gtest/gtest.h>

namespace {

using halfstep::GradScaler;
using halfstep::optim::Adagrad;
using halfstep::optim::AdagradOptions;
using halfstep::optim::Adam;
using halfstep::optim::AdamOptions;
using halfstep::optim::AdamW;
using halfstep::optim::AdamWOptions;
using halfstep::optim::Kernel;
using halfstep::optim::LRScheduler;
using halfstep::optim::MasterWeights;
using halfstep::optim::SGD;
using halfstep::optim::SGDOptions;
using halfstep::testing::mean_square;
using halfstep::testing::Mlp;
using halfstep::testing::same_bits;
using halfstep::testing::state_of;
using halfstep::testing::Step;
using torch::Tensor;

class GraphCaptureStep : public halfstep::testing::CaptureStepTest {};
HALFSTEP_ON_EACH_DEVICE(GraphCaptureStep);

TEST_P(GraphCaptureStep, AdamHasTheSameBits) {
  expect_same_training<Adam>(AdamOptions(1e-2).kernel(Kernel::aten).capturable());
  expect_same_training<Adam>(AdamOptions(1e-2).amsgrad(true).kernel(Kernel::aten).capturable());
}

TEST_P(GraphCaptureStep, AdamWHasTheSameBits) {
  expect_same_training<AdamW>(AdamWOptions(1e-2).kernel(Kernel::aten).capturable());
}

TEST_P(GraphCaptureStep, SgdHasTheSameBits) {
  expect_same_training<SGD>(SGDOptions(1e-2).kernel(Kernel::aten).capturable());
  expect_same_training<SGD>(
      SGDOptions(1e-2).momentum(0.9).nesterov(true).kernel(Kernel::aten).capturable());
}

TEST_P(GraphCaptureStep, AdagradHasTheSameBits) {
  expect_same_training<Adagrad>(
      AdagradOptions(1e-2).lr_decay(0.1).kernel(Kernel::aten).capturable());
}

TEST_P(GraphCaptureStep, ClippingHasTheSameBitsAndNormsStay) {
  expect_same_training<Adam>(AdamOptions(1e-2).clip_value(1e-3).kernel(Kernel::aten).capturable());
  const auto options = AdamOptions(1e-2).clip_norm(0.1).kernel(Kernel::aten).capturable();
  expect_same_training<Adam>(options);
  auto by_op = training<Adam>(options, false);
  auto captured = training<Adam>(options);
  std::vector<Tensor> norms;
  for (int i = 0; i < 8; ++i) {
    by_op.run(1);
    captured.run(1);
    norms.push_back(captured.optimizer->grad_norm());
    EXPECT_TRUE(same_bits({by_op.optimizer->grad_norm()}, {norms.back()})) << i;
  }
  EXPECT_EQ(captured.step->captured_steps(), 4);
  EXPECT_FALSE(at::equal(norms[6], norms[7]));  // each its own
}

TEST_P(GraphCaptureStep, WithoutAScaler) {
  std::vector<std::vector<Tensor>> states;
  for (const bool capture : {false, true}) {
    auto trained = training<Adam>(AdamOptions(1e-2).kernel(Kernel::aten).capturable(), capture);
    Step step(trained.net, trained.step->function);
    step.config().enable_pass("cuda_graph", capture);
    step.add_optimizer(*trained.optimizer);
    torch::manual_seed(8);
    for (int i = 0; i < 8; ++i) step(random());
    EXPECT_EQ(step.captured_steps(), capture ? 4 : 0);
    EXPECT_EQ(step.why_step_not_captured(), "");
    states.push_back(state_of(*trained.net));
  }
  EXPECT_TRUE(same_bits(states[0], states[1]));
}

TEST_P(GraphCaptureStep, ASchedulesRatesNeedNoNewCapture) {
  const auto options = AdamOptions(1e-2).kernel(Kernel::aten).capturable();
  std::vector<double> rates;
  std::vector<std::vector<Tensor>> states;
  for (const bool capture : {false, true}) {
    auto trained = training<Adam>(options, capture);
    LRScheduler schedule(*trained.optimizer, halfstep::optim::step_lr(2, 0.5));
    Step step(trained.net, trained.step->function);
    step.config().enable_pass("cuda_graph", capture);
    step.add_optimizer(*trained.optimizer, schedule);
    step.set_grad_scaler(*trained.scaler);
    torch::manual_seed(8);
    for (int i = 0; i < 10; ++i) {
      auto x = random();
      if (i == 6) x[0][0] = std::numeric_limits<float>::infinity();
      step(x);
    }
    EXPECT_EQ(schedule.steps(), 9);  // not where the scaler skipped
    EXPECT_EQ(step.captured_steps(), capture ? 6 : 0);
    EXPECT_EQ(step.why_step_not_captured(), "");
    rates.push_back(trained.optimizer->param_groups()[0].options().get_lr());
    states.push_back(state_of(*trained.net));
  }
  expect_captures(1);
  EXPECT_DOUBLE_EQ(rates[0], 1e-2 / 16);
  EXPECT_EQ(rates[0], rates[1]);
  EXPECT_TRUE(same_bits(states[0], states[1]));
}

TEST_P(GraphCaptureStep, WhatAStepWritesGetsAVersion) {
  auto trained = training<Adam>(AdamOptions(1e-2).kernel(Kernel::aten).capturable());
  trained.warm_up();
  const auto weight = trained.net->first->weight;
  auto version = weight._version();
  for (int i = 0; i < 3; ++i) {
    trained.expect_whole_launch();
    EXPECT_GT(weight._version(), version);
    version = weight._version();
    EXPECT_FALSE(weight.grad().defined());
  }
}

TEST_P(GraphCaptureStep, ShadowWeightsAreThoseOfTheLastLaunch) {
  auto trained = training<Adam>(
      AdamOptions(1e-2).shadow_weights(torch::kBFloat16).kernel(Kernel::aten).capturable());
  trained.step->config().enable_amp(true, torch::kBFloat16);
  trained.warm_up();
  for (int i = 0; i < 2; ++i) trained.expect_whole_launch();
  const auto weight = trained.net->first->weight;
  const auto shadow = trained.optimizer->shadow_of(weight);
  EXPECT_TRUE(same_bits({weight.detach().to(torch::kBFloat16)}, {shadow}));
  // Autocast takes them, so they are known to be up to date.
  const auto uses = halfstep::ShadowWeights::uses();
  {
    const halfstep::Autocast autocast(
        halfstep::AutocastOptions(GetParam()).dtype(torch::kBFloat16));
    trained.net->forward(random());
  }
  EXPECT_EQ(halfstep::ShadowWeights::uses(), uses + 4);  // weights and biases
}

TEST_P(GraphCaptureStep, MastersStayThoseOfTheirWeights) {
  for (const auto kind : {MasterWeights::float32, MasterWeights::remainder}) {
    std::vector<std::vector<Tensor>> states;
    for (const bool capture : {false, true}) {
      torch::manual_seed(3);
      Mlp net;
      net->to(device(), torch::kBFloat16);
      Adam adam(net->parameters(),
                AdamOptions(1e-3).master_weights(kind).kernel(Kernel::aten).capturable());
      Step step(net, mean_square(net));
      step.config().enable_pass("cuda_graph", capture);
      step.add_optimizer(adam);
      for (int i = 0; i < 10; ++i) {
        step(random(torch::kBFloat16));
        EXPECT_EQ(step.why_step_not_captured(), "");
      }
      EXPECT_EQ(step.captured_steps(), capture ? 6 : 0) << step.why_not_captured();
      states.push_back(state_of(*net));
      states.back().push_back(adam.master_of(net->first->weight));
      // Somebody else writes a weight: its master is made anew, on the host.
      {
        const torch::NoGradGuard no_grad;
        net->first->weight.mul_(0.5);
      }
      step(random(torch::kBFloat16));
      EXPECT_EQ(step.why_not_captured(),
                capture ? "somebody changed a weight under a master of Adam" : "");
      states.back().push_back(adam.master_of(net->first->weight));
    }
    EXPECT_TRUE(same_bits(states[0], states[1]));
  }
}

TEST_P(GraphCaptureStep, SeveralOptimizersAndGroups) {
  std::vector<std::vector<Tensor>> states;
  for (const bool capture : {false, true}) {
    torch::manual_seed(3);
    Mlp net;
    net->to(device());
    std::vector<torch::optim::OptimizerParamGroup> groups;
    groups.emplace_back(std::vector{net->first->weight});
    groups.emplace_back(std::vector{net->first->bias},
                        std::make_unique<SGDOptions>(SGDOptions().lr(0.5)));
    SGD sgd(groups, SGDOptions(1e-2).momentum(0.9).kernel(Kernel::aten).capturable());
    Adam adam(net->second->parameters(), AdamOptions(1e-2).kernel(Kernel::aten).capturable());
    GradScaler scaler(scaling().init_scale(64).growth_interval(2));
    Step step(net, mean_square(net));
    step.config().enable_pass("cuda_graph", capture);
    step.add_optimizer(sgd);
    step.add_optimizer(adam);
    step.set_grad_scaler(scaler);
    for (int i = 0; i < 9; ++i) {
      if (i == 7) sgd.param_groups()[1].options().set_lr(0.25);
      step(random());
    }
    EXPECT_EQ(step.captured_steps(), capture ? 5 : 0);
    EXPECT_EQ(step.why_step_not_captured(), "");
    states.push_back(state_of(*net));
    states.back().push_back(scaler.get_scale_async().clone());
  }
  expect_captures(1);
  EXPECT_TRUE(same_bits(states[0], states[1]));
}

}  // namespace
