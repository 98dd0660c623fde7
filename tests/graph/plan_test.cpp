// Training by a precision plan.
#include "halfstep/autocast.h"
#include "halfstep/optim.h"
#include "halfstep/scaling.h"

#include <sstream>
#include <string>

#include "tests/graph/planned_step.h"
#include <gtest/gtest.h>

namespace {

namespace F = torch::nn::functional;
using halfstep::Graph;
using halfstep::testing::ConvNet;
using halfstep::testing::count;
using halfstep::testing::line_with;
using halfstep::testing::Mlp;
using halfstep::testing::same_bits;
using halfstep::testing::Step;
using torch::kBFloat16;
using torch::Tensor;

template <class Net>
struct PlanTrain : Graph<Tensor(Tensor, Tensor)> {
  PlanTrain(Net its_net, torch::optim::Optimizer& optimizer)
      : net(register_module("net", its_net)) {
    config().enable_amp(true, kBFloat16).plan_precision();
    add_optimizer(optimizer);
  }
  Tensor build(const Tensor& x, const Tensor& y) override {
    const auto loss = F::cross_entropy(net->forward(x), y);
    loss.backward();
    return loss;
  }
  Net net;
};

class GraphPlan : public halfstep::testing::PlanTest {
 protected:
  Tensor classes(int64_t n) const {
    return torch::arange(n, at::TensorOptions(device()).dtype(torch::kLong)) % 4;
  }
};

TEST_P(GraphPlan, AnMlpTrainsByItsPlan) {
  auto net = mlp();
  halfstep::optim::Adam adam(net->parameters(), halfstep::optim::AdamOptions(1e-2));
  PlanTrain<Mlp> train(net, adam);
  train.config().check_replays();
  const auto x = random({16, 12}), y = classes(16);
  const auto first = train(x, y);
  Tensor last;
  for (int i = 0; i < 40; ++i) last = train(x, y);
  EXPECT_EQ(train.replayed_steps(), 39);
  EXPECT_EQ(first.scalar_type(), torch::kFloat);
  EXPECT_LT(last.item<double>(), 0.5 * first.item<double>());
  const auto plan = train.precision_plan();
  std::vector<std::string> nodes;
  for (size_t i = 0; i < plan.nodes().size(); ++i)
    nodes.push_back(plan.nodes()[i].op + (plan.is_low(i) ? " low" : ""));
  EXPECT_EQ(nodes, (std::vector<std::string>{"t low", "addmm low", "relu low", "t low", "addmm low",
                                             "cross_entropy_loss", "output"}));
  EXPECT_EQ(plan.casts().size(), 6);  // two weights, two biases, the input; and the logits back
  const auto program = train.program();
  EXPECT_EQ(count(program, "_to_copy("), 6) << program;
  EXPECT_EQ(count(program, "addmm("), 2);
  EXPECT_NE(line_with(program, "addmm(").find("bfloat16[16, 16]"), std::string::npos) << program;
  EXPECT_NE(line_with(program, "relu(").find("bfloat16"), std::string::npos) << program;
  EXPECT_NE(line_with(program, "_log_softmax(").find("float32"), std::string::npos) << program;
}

TEST_P(GraphPlan, TheStepIsThatOfCastsByHandToTheBit) {
  auto net = mlp();
  const auto x = random({16, 12}), y = classes(16);
  const auto by_hand = [&] {
    const auto layer = [&](const Tensor& input, const torch::nn::Linear& linear) {
      return torch::addmm(low(linear->bias), input, low(linear->weight).t());
    };
    const auto logits = layer(torch::relu(layer(low(x), net->first)), net->second);
    return torch::cross_entropy_loss(logits.to(torch::kFloat), y);
  };
  Step step(net, [&](const Tensor& input) {
    const auto loss = torch::cross_entropy_loss(net->forward(input), y);
    loss.backward();
    return loss;
  });
  step.add_tensor("classes", y);
  step.config().enable_amp(true, kBFloat16).plan_precision();
  const auto gradients = [&] {
    std::vector<Tensor> all;
    for (auto& parameter : net->parameters()) {
      all.push_back(parameter.grad().clone());
      parameter.mutable_grad() = Tensor();
    }
    return all;
  };
  const auto loss = by_hand();
  loss.backward();
  const auto expected = gradients();
  for (int i = 0; i < 4; ++i) {  // recorded twice, then replayed
    EXPECT_TRUE(same_bits({loss.detach()}, {step(x)})) << i;
    EXPECT_TRUE(same_bits(expected, gradients())) << i;
  }
  EXPECT_EQ(step.replayed_steps(), 2);
}

TEST_P(GraphPlan, AConvolutionNetworkTrainsByItsPlan) {
  ConvNet net(0.1);
  net->to(device());
  halfstep::optim::Adam adam(net->parameters(), halfstep::optim::AdamOptions(1e-2));
  PlanTrain<ConvNet> train(net, adam);
  train.config().check_replays();
  const auto x = random({8, 1, 8, 8}), y = classes(8);
  const auto first = train(x, y);
  EXPECT_EQ(net->norm->num_batches_tracked.item<int64_t>(), 1);  // the run for the plan is undone
  Tensor last;
  for (int i = 0; i < 40; ++i) last = train(x, y);
  EXPECT_LT(last.item<double>(), 0.5 * first.item<double>());
  const auto program = train.program();
  const auto plan = train.precision_plan().to_string();
  EXPECT_NE(line_with(program, "convolution(").find("bfloat16"), std::string::npos) << program;
  EXPECT_NE(line_with(plan, "batch_norm(").find("\"net.norm.running_mean\"!"), std::string::npos);
  EXPECT_NE(line_with(plan, "batch_norm(").find("# bfloat16"), std::string::npos);
  EXPECT_NE(line_with(plan, "max_pool2d(").find("# bfloat16"), std::string::npos);
  EXPECT_NE(line_with(plan, "dropout(").find("# bfloat16"), std::string::npos);
  EXPECT_NE(line_with(plan, "cross_entropy_loss(").find("# float32"), std::string::npos);
  EXPECT_EQ(net->norm->running_mean.scalar_type(), torch::kFloat);
}

TEST_P(GraphPlan, TheRunForThePlanDrawsNoRandomNumbers) {
  Step step([](const Tensor& x) { return torch::dropout(x, 0.5, /*train=*/true); });
  step.config().enable_amp(true, kBFloat16).plan_precision();
  const auto x = random({64});
  torch::manual_seed(9);
  const auto first = step(x);
  torch::manual_seed(9);
  EXPECT_TRUE(same_bits({torch::dropout(x, 0.5, true)}, {first}));
}

TEST_P(GraphPlan, ShadowWeightsStandInForCasts) {
  auto net = mlp(), same = mlp();
  auto options = halfstep::optim::AdamOptions(1e-2);
  halfstep::optim::Adam plain(same->parameters(), options);
  halfstep::optim::Adam adam(net->parameters(), options.shadow_weights(kBFloat16));
  {
    const torch::NoGradGuard no_grad;
    for (size_t i = 0; i < net->parameters().size(); ++i)
      same->parameters()[i].copy_(net->parameters()[i]);
  }
  PlanTrain<Mlp> train(net, adam), expected(same, plain);
  const auto y = classes(16);
  for (int i = 0; i < 6; ++i) {
    const auto x = random({16, 12});
    EXPECT_TRUE(same_bits({expected(x, y)}, {train(x, y)})) << i;
  }
  EXPECT_EQ(train.replayed_steps(), 4);
  EXPECT_NE(train.program().find("shadow of"), std::string::npos) << train.program();
  EXPECT_EQ(count(train.program(), "_to_copy("), 2);  // the input and the logits
}

TEST_P(GraphPlan, ScaleAndAccumulationGoAroundIt) {
  auto net = mlp();
  halfstep::optim::SGD sgd(net->parameters(), halfstep::optim::SGDOptions(0.1));
  halfstep::GradScaler scaler(halfstep::GradScalerOptions(device().type()).init_scale(1024));
  PlanTrain<Mlp> train(net, sgd);
  train.set_grad_scaler(scaler);
  train.config().set_gradient_accumulation_steps(2).check_replays();
  const auto x = random({16, 12}), y = classes(16);
  const auto first = train(x, y).mean();
  Tensor last;
  for (int i = 0; i < 60; ++i) last = train(x, y).mean();
  EXPECT_LT(last.item<double>(), first.item<double>());
  EXPECT_EQ(scaler.get_scale(), 1024);
}

TEST_P(GraphPlan, WithoutGradientsAndInInferenceMode) {
  const auto x = random({4, 12});
  auto net = mlp();
  Step step(net, [net](const Tensor& input) mutable { return net->forward(input); });
  step.config().enable_amp(true, kBFloat16).plan_precision();
  const auto expected = step(x);
  const torch::NoGradGuard no_grad;
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(same_bits({expected}, {step(x)}));
  const c10::InferenceMode inference;
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(same_bits({expected}, {step(x)}));
}

TEST_P(GraphPlan, DebugPrintsThePlan) {
  std::ostringstream out;
  auto net = mlp();
  Step step(net, [net](const Tensor& input) mutable { return net->forward(input); });
  step.debug(1, out);
  step.config().enable_amp(true, kBFloat16).plan_precision();
  step(random({4, 12}));
  EXPECT_NE(out.str().find(step.precision_plan().to_string()), std::string::npos);
  EXPECT_NE(out.str().find("halfstep precision plan 1, bfloat16"), std::string::npos);
}

HALFSTEP_ON_EACH_DEVICE(GraphPlan);

}  // namespace
