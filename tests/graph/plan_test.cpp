// Graphs that run by a precision plan.
#include "halfstep/autocast.h"
#include "halfstep/core/error.h"
#include "halfstep/optim.h"
#include "halfstep/scaling.h"

#include <sstream>
#include <string>
#include <string_view>

#include "tests/graph/step_test.h"
#include "tests/support/errors.h"
#include "tests/support/temp_folder.h"
#include <gtest/gtest.h>

namespace {

namespace F = torch::nn::functional;
using halfstep::Graph;
using halfstep::OpColor;
using halfstep::OpPolicy;
using halfstep::PrecisionPlan;
using halfstep::UsageError;
using halfstep::testing::ConvNet;
using halfstep::testing::Mlp;
using halfstep::testing::same_bits;
using halfstep::testing::Step;
using torch::kBFloat16;
using torch::Tensor;

/// How many lines of a program's forward have `text`.
int count(const std::string& program, std::string_view text) {
  int found = 0;
  const auto forward = program.substr(0, program.find("\nbackward"));
  for (auto at = forward.find(text); at != std::string::npos; at = forward.find(text, at + 1))
    ++found;
  return found;
}

/// The line of a plan's node or a program's call that has `text`.
std::string line_with(const std::string& all, const std::string& text) {
  const auto at = all.find(text);
  if (at == std::string::npos) return "no line has " + text;
  const auto start = all.rfind('\n', at) + 1;
  return all.substr(start, all.find('\n', at) - start);
}

template <class Net>
struct Train : Graph<Tensor(Tensor, Tensor)> {
  Train(Net its_net, torch::optim::Optimizer& optimizer) : net(register_module("net", its_net)) {
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

class GraphPlan : public halfstep::testing::StepTest {
 protected:
  Tensor classes(int64_t n) const {
    return torch::arange(n, at::TensorOptions(device()).dtype(torch::kLong)) % 4;
  }
  /// A planned step that uses these tensors, in checked mode.
  static std::unique_ptr<Step> planned(
      Step::Function function, const std::vector<std::pair<std::string, Tensor>>& tensors = {}) {
    auto step = std::make_unique<Step>(std::move(function));
    for (const auto& [name, tensor] : tensors) step->add_tensor(name, tensor);
    step->config().enable_amp(true, kBFloat16).plan_precision().check_replays();
    return step;
  }
  /// What a replay gives.
  Tensor replayed(Step& step, const Tensor& x) const {
    warm_up(step, x);
    auto y = step(x);
    EXPECT_EQ(step.last_reason(), "");
    return y;
  }
  static Tensor low(const Tensor& x) { return x.to(kBFloat16); }
};

TEST_P(GraphPlan, AnMlpTrainsByItsPlan) {
  auto net = mlp();
  halfstep::optim::Adam adam(net->parameters(), halfstep::optim::AdamOptions(1e-2));
  Train<Mlp> train(net, adam);
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
  Train<ConvNet> train(net, adam);
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

TEST_P(GraphPlan, AValueOfTwoReadersIsCastOnce) {
  const auto w = random({12, 12}), x = random({4, 12});
  const Step::Function function = [w](const Tensor& input) {
    const auto first = torch::mm(input, w), second = torch::mm(input, w);
    return torch::exp(first) + torch::cos(first) + second;  // exp and cos are on no list
  };
  const auto step = planned(function, {{"w", w}});
  step->config().enable_pass("reuse_results", false);  // which would hide casts made twice
  const auto y = torch::mm(low(x), low(w)), up = y.to(torch::kFloat);
  EXPECT_TRUE(same_bits({torch::exp(up) + torch::cos(up) + up}, {replayed(*step, x)}));
  EXPECT_EQ(step->precision_plan().casts().size(), 4);  // the input, w, both products
  EXPECT_EQ(count(step->program(), "_to_copy("), 4) << step->program();
}

TEST_P(GraphPlan, AnOpThatWritesInPlaceRunsAsWhatItWrites) {
  const auto w = random({12, 6}), b = random({6}), x = random({4, 12});
  const auto linear = planned(
      [w, b](const Tensor& input) {
        auto out = torch::matmul(input, w);
        out += b;
        return out;
      },
      {{"w", w}, {"b", b}});
  const auto product = torch::matmul(low(x), low(w));
  EXPECT_TRUE(same_bits({(product + low(b)).to(torch::kFloat)}, {replayed(*linear, x)}));
  EXPECT_NE(line_with(linear->precision_plan().to_string(), "add_.Tensor(").find("with 0"),
            std::string::npos);

  // exp is on no list: it runs in float32, and so does what it writes.
  const auto exp =
      planned([w](const Tensor& input) { return torch::matmul(input, w).exp_(); }, {{"w", w}});
  EXPECT_TRUE(same_bits({torch::matmul(x, w).exp()}, {replayed(*exp, x)}));

  const auto part = planned(
      [w](const Tensor& input) {
        auto out = torch::matmul(input, w);
        out.narrow(1, 0, 3).mul_(2);  // through a view
        return out;
      },
      {{"w", w}});
  auto expected = product.clone();
  expected.narrow(1, 0, 3).mul_(2);
  EXPECT_TRUE(same_bits({expected.to(torch::kFloat)}, {replayed(*part, x)}));
}

TEST_P(GraphPlan, WhatWritesIntoABufferRunsInFloat32) {
  const auto w = random({12, 12}), mean = torch::zeros({12}, device()), x = random({4, 12});
  const auto step = planned(
      [w, mean](const Tensor& input) {
        const auto y = torch::matmul(input, w);
        mean.mul_(0.5).add_(y.mean(0));
        return torch::matmul(y, w) * mean;
      },
      {{"w", w}, {"mean", mean}});
  warm_up(*step, x);
  const auto before = mean.clone();
  const auto y = torch::matmul(low(x), low(w));
  (*step)(x);
  EXPECT_EQ(step->last_reason(), "");
  EXPECT_TRUE(same_bits({before * 0.5 + y.to(torch::kFloat).mean(0)}, {mean}));
  EXPECT_NE(line_with(step->precision_plan().to_string(), "= mul_").find("fixed"),
            std::string::npos);
}

TEST_P(GraphPlan, MarkersAreWhiteAndBlack) {
  const auto w = random({12, 12}), x = random({4, 12});
  const auto normed = [w](const Tensor& input) {
    return torch::matmul(torch::layer_norm(input, {12}), w);
  };
  const auto plain = planned(normed, {{"w", w}});
  const auto expected = torch::matmul(low(torch::layer_norm(x, {12})), low(w));
  EXPECT_TRUE(same_bits({expected.to(torch::kFloat)}, {replayed(*plain, x)}));
  const auto white =
      planned([normed](const Tensor& input) { return normed(halfstep::amp_white_identity(input)); },
              {{"w", w}});
  EXPECT_TRUE(same_bits({torch::matmul(torch::layer_norm(low(x), {12}), low(w)).to(torch::kFloat)},
                        {replayed(*white, x)}));
  const auto between = [w](const Tensor& input, bool black) {
    const auto y = torch::matmul(input, w);
    return torch::matmul(torch::gelu(black ? halfstep::amp_black_identity(y) : y), w);
  };
  const auto y = torch::matmul(low(x), low(w));
  for (const bool black : {false, true}) {
    const auto step =
        planned([&](const Tensor& input) { return between(input, black); }, {{"w", w}});
    const auto h = black ? low(torch::gelu(y.to(torch::kFloat))) : torch::gelu(y);
    EXPECT_TRUE(same_bits({torch::matmul(h, low(w)).to(torch::kFloat)}, {replayed(*step, x)}))
        << black;
    EXPECT_EQ(count(step->program(), "amp_black_identity"), 0);
  }
  // Without a plan they do nothing.
  EXPECT_TRUE(same_bits({x}, {halfstep::amp_black_identity(halfstep::amp_white_identity(x))}));
}

TEST_P(GraphPlan, APlanIsChangedSavedAndSetAgain) {
  const halfstep::testing::TempFolder folder;
  const auto path = (folder.path() / "mlp.plan").string();
  const auto x = random({4, 12});
  auto net = mlp();
  Step step(net, [net](const Tensor& input) mutable { return net->forward(input); });
  EXPECT_TRUE(step.precision_plan().empty());
  step.config().enable_amp(true, kBFloat16).plan_precision().check_replays();
  const auto low_first = step(x);
  auto plan = step.precision_plan();
  plan.module("net.first", OpColor::black).set("output", OpColor::white).save(path);
  step.config().set_precision_plan(PrecisionPlan::load(path));
  const auto changed = step(x);
  EXPECT_EQ(step.precision_plan(), plan);
  const auto h = low(torch::relu(net->first->forward(x)));
  EXPECT_TRUE(same_bits(
      {torch::addmm(low(net->second->bias), h, low(net->second->weight).t()).detach()}, {changed}));
  EXPECT_FALSE(at::equal(low(low_first), changed));
  step.config().set_precision_plan(std::nullopt);
  EXPECT_TRUE(same_bits({low_first}, {step(x)}));
}

TEST_P(GraphPlan, AnotherBuildThanThePlansIsAnError) {
  const auto x = random({4, 12});
  auto net = mlp();
  Step first(net, [net](const Tensor& input) mutable { return net->forward(input); });
  first.config().enable_amp(true, kBFloat16).plan_precision();
  first(x);
  const auto plan = first.precision_plan();
  const auto expect = [&](const Step::Function& function, const char* but) {
    Step other(net, function);
    other.config().enable_amp(true, kBFloat16).set_precision_plan(plan);
    EXPECT_ERROR(other(x), UsageError,
                 "[Graph] build must make the calls of its precision plan, but", but,
                 "set a plan that was made of this build, or none");
  };
  expect([net](const Tensor& input) mutable { return torch::gelu(net->first(input)); },
         "call 2 is relu there and was gelu");
  expect([net](const Tensor& input) mutable { return net->first(input); },
         "it ended before call 2, relu");
  expect([net](const Tensor& input) mutable { return net->forward(input).exp(); },
         "after its 5 calls comes exp");
  expect([net](const Tensor& input) mutable { return net->forward(input.to(torch::kDouble)); },
         "call 0 is t there and was to.dtype");
  Step other(net, [net](const Tensor& input) mutable { return net->forward(input); });
  other.config().enable_amp(true, torch::kHalf).set_precision_plan(plan);
  EXPECT_ERROR(other(x), UsageError, "[Graph]",
               "a precision plan must have the dtype of enable_amp, float16, but has bfloat16");
}

TEST_P(GraphPlan, ABuildThatAsksForDtypesIsAnError) {
  const auto w = random({12, 12}), x = random({4, 12});
  Step step([w](const Tensor& input) {
    const auto y = torch::matmul(input, w);
    return y.scalar_type() == kBFloat16 ? torch::matmul(y.relu(), w) : torch::matmul(y.tanh(), w);
  });
  step.add_tensor("w", w);
  step.config().enable_amp(true, kBFloat16).plan_precision();
  EXPECT_ERROR(step(x), UsageError, "call 1 is tanh there and was relu",
               "don't ask a tensor for its dtype");
}

TEST_P(GraphPlan, AFirstRunThatSetsUpIsPlannedOnceMore) {
  const auto w = random({12, 12}), x = random({4, 12});
  int runs = 0;
  Step step([&, w](const Tensor& input) {
    const auto y = torch::matmul(input, w);
    return ++runs == 1 ? torch::tanh(y) : y;
  });
  step.add_tensor("w", w);
  std::ostringstream out;
  step.debug(0, out);
  step.config().enable_amp(true, kBFloat16).plan_precision();
  const auto y = step(x);
  EXPECT_TRUE(same_bits({torch::matmul(low(x), low(w)).to(torch::kFloat)}, {y}));
  EXPECT_NE(out.str().find("plans again"), std::string::npos);
}

TEST_P(GraphPlan, APolicyGivesTheColors) {
  const auto w = random({12, 12}), x = random({4, 12});
  Step step([w](const Tensor& input) {
    return torch::matmul(torch::softmax(torch::matmul(input, w), 1), w);
  });
  step.add_tensor("w", w);
  step.config().enable_amp(true, kBFloat16).plan_precision();
  const auto softmax_in = [&](const OpPolicy& policy) {
    step.config().policy(policy);
    step(x);
    return line_with(step.precision_plan().to_string(), "softmax.int(");
  };
  EXPECT_THAT(softmax_in(OpPolicy::oneflow_graph()), ::testing::HasSubstr("gray: "));
  EXPECT_THAT(softmax_in(OpPolicy::oneflow_graph()), ::testing::HasSubstr("# bfloat16"));
  EXPECT_THAT(softmax_in(OpPolicy::oneflow_graph().set("softmax.int", halfstep::CastRule::float32)),
              ::testing::HasSubstr("black: "));
  EXPECT_THAT(softmax_in(OpPolicy()), ::testing::HasSubstr("unlisted: "));
  EXPECT_EQ(count(step.precision_plan().to_string(), "# bfloat16"), 0);
  EXPECT_ERROR(softmax_in(OpPolicy::oneflow_graph().set("softmax.int", halfstep::CastRule::banned)),
               UsageError, "[PrecisionPlan]", "the graph's policy bans softmax.int");
}

TEST_P(GraphPlan, RulesByModuleGiveColorsToo) {
  const auto x = random({4, 12});
  auto net = mlp();
  Step step(net, [net](const Tensor& input) mutable { return net->forward(input); });
  auto policy = OpPolicy::oneflow_graph();
  policy.module("second", halfstep::CastRule::float32).bind(*net);
  step.config().enable_amp(true, kBFloat16).plan_precision().policy(policy);
  step(x);
  const auto plan = step.precision_plan();
  EXPECT_TRUE(plan.is_low(1));   // addmm of the first layer
  EXPECT_FALSE(plan.is_low(4));  // of the second
  EXPECT_EQ(plan.nodes()[4].module, "net.second");
}

TEST_P(GraphPlan, ADisabledRegionInBuildIsNotPlannedAndAnotherDtypeIsAnError) {
  const auto w = random({12, 12}), x = random({4, 12});
  const auto region = [this](bool enabled) {
    return halfstep::AutocastOptions(device().type()).enabled(enabled).dtype(torch::kHalf);
  };
  const auto disabled = planned(
      [w, region](const Tensor& input) {
        const halfstep::Autocast autocast(region(false));
        return torch::matmul(input, w);
      },
      {{"w", w}});
  EXPECT_TRUE(same_bits({torch::matmul(x, w)}, {replayed(*disabled, x)}));
  Step other([w, region](const Tensor& input) {
    const halfstep::Autocast autocast(region(true));
    return torch::matmul(input, w);
  });
  other.add_tensor("w", w);
  other.config().enable_amp(true, kBFloat16).plan_precision();
  EXPECT_ERROR(other(x), UsageError, "[Graph]",
               "must not open autocast regions with a dtype or policy", "one has float16");
}

TEST_P(GraphPlan, WhatBuildCastsByItselfStaysButBesideFloat32) {
  const auto w = random({12, 12}), x = random({4, 12});
  const auto step = planned(
      [w](const Tensor& input) {
        const auto by_hand = input.to(torch::kHalf);
        return torch::exp(by_hand).to(torch::kFloat) + torch::matmul(by_hand, w);
      },
      {{"w", w}});
  const auto half = x.to(torch::kHalf);
  const auto product = torch::matmul(low(half), low(w)).to(torch::kFloat);
  EXPECT_TRUE(same_bits({torch::exp(half).to(torch::kFloat) + product}, {replayed(*step, x)}));
}

TEST_P(GraphPlan, WhatKnowsAResultsDtypeGetsThePlans) {
  const auto w = random({12, 12}), x = random({4, 12});
  const auto step = planned(
      [w](const Tensor& input) {
        const auto y = torch::matmul(input, w);
        auto sum = torch::zeros({4, 12}, y.options());  // asks for y's dtype: float32 in the plan
        sum.add_(torch::exp(y));
        return sum;
      },
      {{"w", w}});
  const auto y = torch::matmul(low(x), low(w)).to(torch::kFloat);
  EXPECT_TRUE(same_bits({torch::exp(y)}, {replayed(*step, x)}));
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
  Train<Mlp> train(net, adam), expected(same, plain);
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
  Train<Mlp> train(net, sgd);
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
