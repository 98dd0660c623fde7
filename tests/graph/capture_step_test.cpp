// When the optimizers' steps and the scaler's update are part of what is captured, and what the
// host does beside a launch. On the CPU over one that only keeps what it captures.
#include "halfstep/optim.h"
#include "halfstep/scaling.h"

#include <cmath>
#include <limits>
#include <memory>
#include <sstream>

#include "tests/graph/capture_on_cpu.h"
#include "tests/support/errors.h"
#include <gtest/gtest.h>

namespace {

using halfstep::GradScaler;
using halfstep::GradScalerOptions;
using halfstep::optim::Adagrad;
using halfstep::optim::AdagradOptions;
using halfstep::optim::Adam;
using halfstep::optim::AdamOptions;
using halfstep::optim::AdamW;
using halfstep::optim::AdamWOptions;
using halfstep::optim::FusedOptimizer;
using halfstep::optim::Kernel;
using halfstep::optim::LRScheduler;
using halfstep::optim::MasterWeights;
using halfstep::optim::SGD;
using halfstep::optim::SGDOptions;
using halfstep::testing::Mlp;
using halfstep::testing::same_bits;
using halfstep::testing::state_of;
using halfstep::testing::Step;
using torch::Tensor;

/// A network, an optimizer of it and a scaler in a graph.
struct Captured {
  template <class Optimizer, class Options>
  static Captured with(c10::Device device, Options options, bool capture = true) {
    torch::manual_seed(3);
    Mlp net;
    net->to(device);
    auto optimizer = std::make_unique<Optimizer>(net->parameters(), std::move(options));
    return {net, std::move(optimizer), capture};
  }

  Captured(Mlp its_net, std::unique_ptr<FusedOptimizer> its_optimizer, bool capture)
      : net(std::move(its_net)),
        optimizer(std::move(its_optimizer)),
        scaler(std::make_unique<GradScaler>(GradScalerOptions(net->first->weight.device().type())
                                                .init_scale(256)
                                                .growth_interval(3))),
        step(std::make_unique<Step>(net, [net = net](const Tensor& x) mutable {
          const auto loss = net->forward(x).square().mean();
          loss.backward();
          return loss;
        })) {
    step->config().enable_pass("cuda_graph", capture);
    step->add_optimizer(*optimizer);
    step->set_grad_scaler(*scaler);
  }

  /// Steps on random numbers; in the steps of `overflows` with an infinity among them.
  void run(int steps, const std::vector<int>& overflows = {}) {
    for (int i = 0; i < steps; ++i, ++done) {
      auto x = torch::randn({8, 12}, numbers).to(net->first->weight.device());
      if (std::find(overflows.begin(), overflows.end(), done) != overflows.end())
        x[0][0] = std::numeric_limits<float>::infinity();
      losses.push_back((*step)(x).nan_to_num());
    }
  }
  /// Until the next call is launched.
  void warm_up() {
    run(4);
    ASSERT_EQ(step->captured_steps(), 0);
  }
  /// One call more, which is a launch of everything.
  void expect_whole_launch() {
    const auto before = step->captured_steps();
    run(1);
    EXPECT_EQ(step->captured_steps(), before + 1) << step->why_not_captured();
    EXPECT_EQ(step->why_step_not_captured(), "");
  }

  Mlp net;
  std::unique_ptr<FusedOptimizer> optimizer;
  std::unique_ptr<GradScaler> scaler;
  std::unique_ptr<Step> step;
  std::vector<Tensor> losses;
  int done = 0;
  at::Generator numbers = at::make_generator<at::CPUGeneratorImpl>(11);
};

/// The tensors that an optimizer keeps, parameter by parameter.
std::vector<Tensor> state_of(FusedOptimizer& optimizer) {
  std::vector<Tensor> tensors;
  for (const auto& group : optimizer.param_groups()) {
    for (const auto& parameter : group.params()) {
      const auto found = optimizer.state().find(parameter.unsafeGetTensorImpl());
      if (found == optimizer.state().end()) continue;
      const auto& state = static_cast<const halfstep::optim::FusedState&>(*found->second);
      for (const auto* tensor :
           {&state.step, &state.buffers[0], &state.buffers[1], &state.buffers[2], &state.master}) {
        if (tensor->defined()) tensors.push_back(tensor->clone());
      }
    }
  }
  return tensors;
}

void expect_same(const Captured& by_op, const Captured& captured) {
  EXPECT_TRUE(same_bits(by_op.losses, captured.losses));
  EXPECT_TRUE(same_bits(state_of(*by_op.net), state_of(*captured.net)));
  EXPECT_EQ(by_op.scaler->state(), captured.scaler->state());
  const auto a = by_op.scaler->overflows(), b = captured.scaler->overflows();
  EXPECT_EQ(a.updates, b.updates);
  EXPECT_EQ(a.overflows, b.overflows);
  EXPECT_EQ(a.skipped_steps, b.skipped_steps);
  EXPECT_EQ(a.last, b.last);
  EXPECT_TRUE(same_bits(state_of(*by_op.optimizer), state_of(*captured.optimizer)));
}

class GraphCaptureStep : public halfstep::testing::DeviceTest {
 protected:
  void SetUp() override {
    DeviceTest::SetUp();
    torch::manual_seed(5);
  }
  template <class Optimizer, class Options>
  Captured training(Options options, bool capture = true) const {
    return Captured::with<Optimizer>(device(), std::move(options), capture);
  }
  Tensor random(c10::ScalarType dtype = torch::kFloat) const {
    return torch::randn({8, 12}).to(device(), dtype);
  }
  GradScalerOptions scaling() const { return GradScalerOptions(GetParam()); }
  /// How often the CPU captured; a GPU does not tell.
  void expect_captures(int count) const {
    if (GetParam() != c10::kCPU) return;
    EXPECT_EQ(captures_.cpu.captures, count);
  }

  /// Twelve steps with and without a capture, with overflows before it, in its first launch and
  /// two in a row later.
  template <class Optimizer, class Options>
  void expect_same_training(const Options& options) {
    auto by_op = training<Optimizer>(options, false);
    auto captured = training<Optimizer>(options);
    const std::vector<int> overflows{1, 4, 7, 8};
    by_op.run(12, overflows);
    captured.run(12, overflows);
    EXPECT_EQ(by_op.step->captured_steps(), 0);
    EXPECT_EQ(captured.step->captured_steps(), 8);
    EXPECT_EQ(captured.step->why_step_not_captured(), "");
    EXPECT_EQ(captured.scaler->overflows().overflows, 4);
    expect_same(by_op, captured);
  }

 private:
  halfstep::testing::CpuCaptures captures_;
};
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
      Step step(net, [net](const Tensor& x) mutable {
        const auto loss = net->forward(x).square().mean();
        loss.backward();
        return loss;
      });
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
    Step step(net, [net](const Tensor& x) mutable {
      const auto loss = net->forward(x).square().mean();
      loss.backward();
      return loss;
    });
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

/// An optimizer that does more on the host than the one it derives from.
struct ReadsAWeight : SGD {
  using SGD::SGD;
  Tensor step(LossClosure closure = nullptr) override {
    auto loss = SGD::step(std::move(closure));
    sum = param_groups()[0].params()[0].sum().item<double>();
    return loss;
  }
  double sum = 0;
};

TEST_P(GraphCaptureStep, OthersStepAfterTheLaunch) {
  const auto why = [&](torch::optim::Optimizer& optimizer, Mlp net) {
    Step step(net, [net](const Tensor& x) mutable {
      const auto loss = net->forward(x).square().mean();
      loss.backward();
      return loss;
    });
    step.add_optimizer(optimizer);
    for (int i = 0; i < 6; ++i) {
      const auto before = net->first->weight.detach().clone();
      step(random());
      EXPECT_FALSE(at::equal(before, net->first->weight)) << "no step was made";
    }
    EXPECT_EQ(step.captured_steps(), 2);
    return step.why_step_not_captured();
  };
  Mlp net;
  net->to(device());
  Adam adam(net->parameters());
  EXPECT_EQ(why(adam, net), "Adam has its learning rate on the host: set capturable(true)");
  torch::optim::SGD sgd(net->parameters(), torch::optim::SGDOptions(1e-2));
  EXPECT_EQ(why(sgd, net),
            "torch::optim::SGD steps on the host: take one of halfstep::optim with "
            "capturable(true)");
  ReadsAWeight reads(net->parameters(), SGDOptions(1e-2).kernel(Kernel::aten).capturable());
  EXPECT_THAT(why(reads, net), ::testing::HasSubstr("ReadsAWeight steps on the host"));
  EXPECT_NE(reads.sum, 0);
}

TEST_P(GraphCaptureStep, ADebugLineSaysSo) {
  auto trained = training<Adam>(AdamOptions(1e-2));
  std::ostringstream log;
  trained.step->debug(1, log);
  trained.run(6);
  EXPECT_THAT(log.str(), ::testing::HasSubstr(
                             "[Graph] cuda_graph: launched as one, without the step, for Adam "
                             "has its learning rate on the host: set capturable(true)\n"));
}

TEST_P(GraphCaptureStep, GradientsOfSeveralPartsAreSteppedAfterThem) {
  auto trained = training<Adam>(AdamOptions(1e-2).kernel(Kernel::aten).capturable());
  trained.step->config().set_gradient_accumulation_steps(2);
  trained.run(8);
  EXPECT_GT(trained.step->captured_steps(), 0);
  EXPECT_EQ(trained.step->why_step_not_captured(), "gradients of several parts are added up");
}

TEST_P(GraphCaptureStep, GradientsThatWereThereAreAddedTo) {
  const auto options = AdamOptions(1e-2).kernel(Kernel::aten).capturable();
  auto by_op = training<Adam>(options, false);
  auto captured = training<Adam>(options);
  for (int i = 0; i < 12; ++i) {
    for (auto* trained : {&by_op, &captured}) {
      if (i == 6) {
        for (const auto& parameter : trained->net->parameters())
          parameter.mutable_grad() = torch::ones_like(parameter);
      }
      trained->run(1);
    }
    if (i == 6) {
      EXPECT_EQ(captured.step->why_not_captured(), "gradients were there before the call");
    }
  }
  EXPECT_EQ(captured.step->captured_steps(), 4);  // two before, two after four replays op by op
  EXPECT_EQ(captured.step->why_step_not_captured(), "");
  expect_same(by_op, captured);
}

TEST_P(GraphCaptureStep, AFactorThatIsPresetHoldsForItsStep) {
  const auto options = SGDOptions(1e-2).kernel(Kernel::aten).capturable();
  auto by_op = training<SGD>(options, false);
  auto captured = training<SGD>(options);
  for (int i = 0; i < 7; ++i) {
    for (auto* trained : {&by_op, &captured}) {
      if (i == 5) trained->optimizer->grad_scale = torch::full({}, 4.0F, device());
      trained->run(1);
    }
    if (i == 5) {
      EXPECT_EQ(captured.step->why_not_captured(),
                "the grad_scale or found_inf of SGD holds for one step");
    }
  }
  expect_same(by_op, captured);
}

TEST_P(GraphCaptureStep, AFlagThatIsPresetDecidesAboutItsStep) {
  const auto options = SGDOptions(1e-2).kernel(Kernel::aten).capturable();
  std::vector<std::vector<Tensor>> states;
  for (const bool capture : {false, true}) {
    auto trained = training<SGD>(options, capture);
    Step step(trained.net, trained.step->function);
    step.config().enable_pass("cuda_graph", capture);
    step.add_optimizer(*trained.optimizer);
    torch::manual_seed(8);
    for (int i = 0; i < 8; ++i) {
      if (i == 5) trained.optimizer->found_inf = torch::ones({}, device());
      const auto before = trained.net->first->weight.detach().clone();
      step(random());
      EXPECT_EQ(at::equal(before, trained.net->first->weight), i == 5) << i;
      trained.optimizer->found_inf.reset();
    }
    EXPECT_EQ(step.captured_steps(), capture ? 1 : 0);
    states.push_back(state_of(*trained.net));
  }
  EXPECT_TRUE(same_bits(states[0], states[1]));
}

TEST_P(GraphCaptureStep, AGradientForNoOptimizerStaysTheUsers) {
  std::vector<std::vector<Tensor>> states;
  for (const bool capture : {false, true}) {
    torch::manual_seed(3);
    Mlp net;
    net->to(device());
    Adam adam(net->first->parameters(), AdamOptions(1e-2).kernel(Kernel::aten).capturable());
    torch::optim::SGD sgd(net->second->parameters(), torch::optim::SGDOptions(1e-2));
    Step step(net, [net](const Tensor& x) mutable {
      const auto loss = net->forward(x).square().mean();
      loss.backward();
      return loss;
    });
    step.config().enable_pass("cuda_graph", capture);
    step.add_optimizer(adam);
    for (int i = 0; i < 8; ++i) {
      step(random());
      EXPECT_TRUE(net->second->weight.grad().defined()) << i;
      sgd.step();
      sgd.zero_grad();
    }
    EXPECT_EQ(step.captured_steps(), capture ? 4 : 0);
    EXPECT_EQ(step.why_step_not_captured(),
              capture ? "a parameter that gets a gradient is in no optimizer" : "");
    states.push_back(state_of(*net));
  }
  EXPECT_TRUE(same_bits(states[0], states[1]));
}

TEST_P(GraphCaptureStep, AGradientThatTheGraphDoesNotMakeIsStepped) {
  std::vector<Tensor> after;
  for (const bool capture : {false, true}) {
    auto trained = training<Adam>(AdamOptions(1e-2).kernel(Kernel::aten).capturable(), capture);
    trained.run(5);
    const auto other = torch::ones({3}, device());
    trained.optimizer->add_param_group(torch::optim::OptimizerParamGroup({other}));
    for (int i = 0; i < 3; ++i) {
      other.mutable_grad() = torch::full({3}, 0.5, device());
      trained.run(1);
      EXPECT_EQ(trained.step->why_not_captured(),
                !capture ? ""
                : i == 0 ? "there is a gradient that the graph does not make"
                         : "it warms up");
    }
    after.push_back(other);
  }
  EXPECT_FALSE(at::equal(after[0], torch::ones({3}, device())));
  EXPECT_TRUE(same_bits({after[0]}, {after[1]}));
}

TEST_P(GraphCaptureStep, WhatPassesOnlyPutsACaptureOff) {
  auto trained = training<Adam>(AdamOptions(1e-2).kernel(Kernel::aten).capturable());
  trained.warm_up();
  for (int i = 0; i < 2; ++i) {
    trained.optimizer->grad_scale = torch::full({}, 2.0F, device());
    trained.run(1);
    EXPECT_EQ(trained.step->why_not_captured(),
              "the grad_scale or found_inf of Adam holds for one step");
  }
  trained.expect_whole_launch();
  // The third time in a row the rest is captured without it.
  for (int i = 0; i < 12; ++i) {
    trained.optimizer->grad_scale = torch::full({}, 2.0F, device());
    trained.run(1);
  }
  EXPECT_EQ(trained.step->why_not_captured(), "");
  EXPECT_EQ(trained.step->why_step_not_captured(),
            "again and again the grad_scale or found_inf of Adam holds for one step");
}

TEST_P(GraphCaptureStep, TwoShapesAndTwoGraphsShareOneOptimizerAndScaler) {
  std::vector<std::vector<Tensor>> states;
  for (const bool capture : {false, true}) {
    auto trained = training<Adam>(AdamOptions(1e-2).kernel(Kernel::aten).capturable(), capture);
    Step second(trained.net, [net = trained.net](const Tensor& x) mutable {
      const auto loss = net->forward(x).abs().mean();
      loss.backward();
      return loss;
    });
    second.config().enable_pass("cuda_graph", capture);
    second.add_optimizer(*trained.optimizer);
    second.set_grad_scaler(*trained.scaler);
    torch::manual_seed(8);
    for (int i = 0; i < 8; ++i) {
      (*trained.step)(random());
      (*trained.step)(random().narrow(0, 0, 5));
      second(random());
    }
    EXPECT_EQ(trained.step->captured_steps(), capture ? 8 : 0);
    EXPECT_EQ(second.captured_steps(), capture ? 4 : 0);
    EXPECT_EQ(trained.step->why_step_not_captured(), "");
    EXPECT_EQ(second.why_step_not_captured(), "");
    EXPECT_EQ(trained.scaler->overflows().updates, 24);
    states.push_back(state_of(*trained.net));
  }
  EXPECT_TRUE(same_bits(states[0], states[1]));
}

TEST_P(GraphCaptureStep, AChangeOfTheHostsIsCapturedAnewThreeTimes) {
  const auto options = AdamWOptions(1e-2).kernel(Kernel::aten).capturable();
  auto by_op = training<AdamW>(options, false);
  auto captured = training<AdamW>(options);
  const std::vector<int> changes{5, 10, 20};
  for (int i = 0; i < 40; ++i) {
    const bool changes_now = std::find(changes.begin(), changes.end(), i) != changes.end();
    for (auto* trained : {&by_op, &captured}) {
      if (changes_now && i == 5) {
        trained->scaler->set_growth_factor(4);
      } else if (changes_now) {
        auto& of_group = trained->optimizer->param_groups()[0].options();
        static_cast<AdamWOptions&>(of_group).weight_decay(0.1 * i);
      }
      trained->run(1);
    }
    if (changes_now) {
      EXPECT_EQ(captured.step->why_not_captured(), "an optimizer or the scaler was changed") << i;
    }
  }
  expect_captures(4);
  EXPECT_EQ(captured.step->why_not_captured(), "");
  EXPECT_EQ(captured.step->why_step_not_captured(),
            "again and again an optimizer or the scaler was changed");
  expect_same(by_op, captured);
}

TEST_P(GraphCaptureStep, GoesOnFromAFile) {
  const auto options = AdamOptions(1e-2).kernel(Kernel::aten).capturable();
  auto straight = training<Adam>(options, false);
  straight.run(5);
  torch::serialize::OutputArchive saved;
  straight.step->save(saved);
  std::stringstream file;
  saved.save_to(file);
  straight.run(7);
  auto captured = training<Adam>(options);
  captured.run(5);  // the last is a launch
  EXPECT_EQ(captured.step->captured_steps(), 1);
  captured.run(3);
  torch::serialize::InputArchive archive;
  archive.load_from(file);
  captured.step->load(archive);
  captured.numbers.set_current_seed(11);
  for (int i = 0; i < 5; ++i) torch::randn({8, 12}, captured.numbers);
  captured.run(7);
  EXPECT_EQ(captured.step->why_step_not_captured(), "");
  EXPECT_GT(captured.step->captured_steps(), 4);
  EXPECT_TRUE(same_bits(state_of(*straight.net), state_of(*captured.net)));
  EXPECT_EQ(straight.scaler->state(), captured.scaler->state());
  EXPECT_TRUE(same_bits(state_of(*straight.optimizer), state_of(*captured.optimizer)));
}

TEST_P(GraphCaptureStep, OverflowsAtTheMinimumScaleEndTheRun) {
  auto trained = training<Adam>(AdamOptions(1e-2).kernel(Kernel::aten).capturable());
  trained.scaler = std::make_unique<GradScaler>(scaling()
                                                    .init_scale(4)
                                                    .min_scale(4)
                                                    .at_min_scale(halfstep::AtMinScale::stop)
                                                    .min_scale_patience(3));
  trained.step->set_grad_scaler(*trained.scaler);
  trained.scaler->name_parameters(trained.net->named_parameters());
  trained.warm_up();
  trained.expect_whole_launch();
  // On a GPU the host learns of it some updates later.
  int overflows = 0;
  const auto run_until_it_ends = [&] {
    for (; overflows < 30; ++overflows) trained.run(1, {trained.done});
  };
  EXPECT_ERROR(run_until_it_ends(), halfstep::UsageError,
               "overflows must end once the scale is at its minimum");
  EXPECT_EQ(trained.step->captured_steps(), overflows + 2);
  EXPECT_TRUE(GetParam() == c10::kCUDA || overflows == 2) << overflows;
  // The gradients of the launch were looked at.
  ASSERT_TRUE(trained.scaler->diagnosis());
  EXPECT_EQ(trained.scaler->diagnosis()->gradients, 4);
}

TEST_P(GraphCaptureStep, AScalerThatIsUsedOutsideToo) {
  auto trained = training<Adam>(AdamOptions(1e-2).kernel(Kernel::aten).capturable());
  auto other = training<SGD>(SGDOptions(1e-2));
  trained.warm_up();
  trained.expect_whole_launch();
  trained.scaler->scale(other.net->forward(torch::ones({8, 12}, device())).sum()).backward();
  trained.scaler->step(*other.optimizer);
  trained.run(1);
  EXPECT_EQ(trained.step->why_not_captured(),
            "optimizers were unscaled or stepped since the last update");
}

}  // namespace
