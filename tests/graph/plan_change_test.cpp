// How a precision plan is changed, and where its colors come from.
#include "halfstep/autocast.h"
#include "halfstep/core/error.h"

#include <sstream>
#include <string>
#include <vector>

#include "tests/graph/planned_step.h"
#include "tests/support/errors.h"
#include "tests/support/temp_folder.h"
#include <gtest/gtest.h>

namespace {

using halfstep::OpColor;
using halfstep::OpPolicy;
using halfstep::PrecisionPlan;
using halfstep::UsageError;
using halfstep::testing::count;
using halfstep::testing::line_with;
using halfstep::testing::same_bits;
using halfstep::testing::Step;
using torch::kBFloat16;
using torch::Tensor;

class GraphPlanChange : public halfstep::testing::PlanTest {};

TEST_P(GraphPlanChange, APlanIsChangedSavedAndSetAgain) {
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

TEST_P(GraphPlanChange, AnotherBuildThanThePlansIsAnError) {
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

TEST_P(GraphPlanChange, ABuildThatAsksForDtypesIsAnError) {
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

TEST_P(GraphPlanChange, AFirstRunThatSetsUpIsPlannedOnceMore) {
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

TEST_P(GraphPlanChange, APolicyGivesTheColors) {
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

TEST_P(GraphPlanChange, RulesByModuleGiveColorsToo) {
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

TEST_P(GraphPlanChange, OneflowsColorsAndLibTorchsListTogether) {
  const auto w = random({12, 12}), x = random({4, 12});
  Step step([w](const Tensor& input) {
    const auto y = torch::softmax(torch::relu(torch::matmul(input, w)), 1);
    return torch::mse_loss(torch::cat({y, torch::erf(y)}), torch::cat({input, input}));
  });
  step.add_tensor("w", w);
  step.config().enable_amp(true, kBFloat16).plan_precision();
  const auto colors = [&](const OpPolicy& policy) {
    step.config().policy(policy);
    step(x);
    std::vector<std::string> all;
    const auto plan = step.precision_plan();
    for (const auto& node : plan.nodes())
      all.push_back(node.op + ' ' + halfstep::op_color_name(node.color));
    return all;
  };
  const auto oneflow = OpPolicy::oneflow_graph();
  EXPECT_THAT(colors(oneflow),
              ::testing::IsSupersetOf({"matmul white", "relu clear", "softmax.int gray",
                                       "cat clear", "mse_loss unlisted", "erf unlisted"}));
  // LibTorch's rules win where both have one: cat promotes, and losses run in float32.
  EXPECT_THAT(colors(OpPolicy(oneflow).merge(OpPolicy::torch(torch::kCPU))),
              ::testing::IsSupersetOf({"matmul white", "relu clear", "softmax.int gray", "cat gray",
                                       "mse_loss black", "erf unlisted"}));
}

HALFSTEP_ON_EACH_DEVICE(GraphPlanChange);

}  // namespace
