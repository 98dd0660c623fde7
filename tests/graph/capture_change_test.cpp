// What keeps the optimizers' steps from a capture, for good or for a while.
#include "halfstep/optim.h"
#include "halfstep/scaling.h"

#include <memory>
#include <sstream>

#include "tests/graph/capture_step.h"
#include "tests/support/errors.h"
#include <gtest/gtest.h>

namespace {

using halfstep::GradScaler;
using halfstep::optim::Adam;
using halfstep::optim::AdamOptions;
using halfstep::optim::AdamW;
using halfstep::optim::AdamWOptions;
using halfstep::optim::Kernel;
using halfstep::optim::SGD;
using halfstep::optim::SGDOptions;
using halfstep::testing::expect_same;
using halfstep::testing::mean_square;
using halfstep::testing::Mlp;
using halfstep::testing::same_bits;
using halfstep::testing::state_of;
using halfstep::testing::Step;
using torch::Tensor;

class GraphCaptureChange : public halfstep::testing::CaptureStepTest {};
HALFSTEP_ON_EACH_DEVICE(GraphCaptureChange);

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

TEST_P(GraphCaptureChange, OthersStepAfterTheLaunch) {
  const auto why = [&](torch::optim::Optimizer& optimizer, Mlp net) {
    Step step(net, mean_square(net));
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

TEST_P(GraphCaptureChange, ADebugLineSaysSo) {
  auto trained = training<Adam>(AdamOptions(1e-2));
  std::ostringstream log;
  trained.step->debug(1, log);
  trained.run(6);
  EXPECT_THAT(log.str(), ::testing::HasSubstr(
                             "[Graph] cuda_graph: launched as one, without the step, for Adam "
                             "has its learning rate on the host: set capturable(true)\n"));
}

TEST_P(GraphCaptureChange, GradientsOfSeveralPartsAreSteppedAfterThem) {
  auto trained = training<Adam>(AdamOptions(1e-2).kernel(Kernel::aten).capturable());
  trained.step->config().set_gradient_accumulation_steps(2);
  trained.run(8);
  EXPECT_GT(trained.step->captured_steps(), 0);
  EXPECT_EQ(trained.step->why_step_not_captured(), "gradients of several parts are added up");
}

TEST_P(GraphCaptureChange, GradientsThatWereThereAreAddedTo) {
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

TEST_P(GraphCaptureChange, AFactorThatIsPresetHoldsForItsStep) {
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

TEST_P(GraphCaptureChange, AFlagThatIsPresetDecidesAboutItsStep) {
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

TEST_P(GraphCaptureChange, AGradientForNoOptimizerStaysTheUsers) {
  std::vector<std::vector<Tensor>> states;
  for (const bool capture : {false, true}) {
    torch::manual_seed(3);
    Mlp net;
    net->to(device());
    Adam adam(net->first->parameters(), AdamOptions(1e-2).kernel(Kernel::aten).capturable());
    torch::optim::SGD sgd(net->second->parameters(), torch::optim::SGDOptions(1e-2));
    Step step(net, mean_square(net));
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

TEST_P(GraphCaptureChange, AGradientThatTheGraphDoesNotMakeIsStepped) {
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

TEST_P(GraphCaptureChange, WhatPassesOnlyPutsACaptureOff) {
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

TEST_P(GraphCaptureChange, TwoShapesAndTwoGraphsShareOneOptimizerAndScaler) {
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

TEST_P(GraphCaptureChange, AChangeOfTheHostsIsCapturedAnewThreeTimes) {
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

TEST_P(GraphCaptureChange, GoesOnFromAFile) {
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

TEST_P(GraphCaptureChange, OverflowsAtTheMinimumScaleEndTheRun) {
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

TEST_P(GraphCaptureChange, AScalerThatIsUsedOutsideToo) {
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
