// What a precision plan makes of single calls.
#include "halfstep/autocast.h"
#include "halfstep/core/error.h"
#include "halfstep/nn/attention.h"

#include "tests/graph/planned_step.h"
#include "tests/support/errors.h"
#include <gtest/gtest.h>

namespace {

using halfstep::UsageError;
using halfstep::testing::count;
using halfstep::testing::line_with;
using halfstep::testing::same_bits;
using halfstep::testing::Step;
using torch::kBFloat16;
using torch::Tensor;

class GraphPlanCalls : public halfstep::testing::PlanTest {};

TEST_P(GraphPlanCalls, AValueOfTwoReadersIsCastOnce) {
  const auto w = random({12, 12}), x = random({4, 12});
  const Step::Function function = [w](const Tensor& input) {
    const auto first = torch::mm(input, w), second = torch::mm(input, w);
    return torch::exp(first) + torch::cos(first) + second;  // exp and cos are on no list
  };
  const auto step = planned(function, {{"w", w}});
  // Which would hide casts.
  step->config().enable_pass("reuse_results", false).enable_pass("fuse_elementwise", false);
  const auto y = torch::mm(low(x), low(w)), up = y.to(torch::kFloat);
  EXPECT_TRUE(same_bits({torch::exp(up) + torch::cos(up) + up}, {replayed(*step, x)}));
  EXPECT_EQ(step->precision_plan().casts().size(), 4);  // the input, w, both products
  EXPECT_EQ(count(step->program(), "_to_copy("), 4) << step->program();
}

TEST_P(GraphPlanCalls, AnOpThatWritesInPlaceRunsAsWhatItWrites) {
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

TEST_P(GraphPlanCalls, WhatWritesIntoABufferRunsInFloat32) {
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

TEST_P(GraphPlanCalls, MarkersAreWhiteAndBlack) {
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

TEST_P(GraphPlanCalls, ADisabledRegionInBuildIsNotPlannedAndAnotherDtypeIsAnError) {
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

TEST_P(GraphPlanCalls, WhatBuildCastsByItselfStaysButBesideFloat32) {
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

TEST_P(GraphPlanCalls, WhatKnowsAResultsDtypeGetsThePlans) {
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

TEST_P(GraphPlanCalls, HalfstepsAttentionIsWhite) {
  const auto w = random({16, 48}), x = random({2, 8, 16});
  const auto attention = [](const Tensor& product) {
    const auto heads = product.reshape({2, 8, 3, 4, 4}).permute({2, 0, 3, 1, 4});
    return halfstep::nn::scaled_dot_product_attention(heads[0], heads[1], heads[2], true);
  };
  const auto step =
      planned([&](const Tensor& input) { return torch::relu(attention(torch::matmul(input, w))); },
              {{"w", w}});
  step->config().enable_pass("fuse_elementwise", false);  // which would hide a cast
  const auto y = torch::relu(attention(torch::matmul(low(x), low(w))));
  EXPECT_TRUE(same_bits({y.to(torch::kFloat)}, {replayed(*step, x)}));
  const auto plan = step->precision_plan().to_string();
  const auto line = line_with(plan, "= halfstep::scaled_dot_product_attention(");
  EXPECT_THAT(line, ::testing::HasSubstr("white: ")) << plan;
  EXPECT_THAT(line, ::testing::HasSubstr("# bfloat16")) << plan;
  // The input and w, and the result: nothing around the attention.
  EXPECT_EQ(step->precision_plan().casts().size(), 3) << plan;
  if (GetParam() == c10::kCPU) {  // CUDA's may be made of several calls
    EXPECT_EQ(count(step->program(), "_to_copy("), 3) << step->program();
  }

  auto black = step->precision_plan();
  black.set("halfstep::scaled_dot_product_attention", halfstep::OpColor::black);
  step->config().set_precision_plan(black);
  const auto product = torch::matmul(low(x), low(w)).to(torch::kFloat);
  EXPECT_TRUE(same_bits({torch::relu(attention(product))}, {(*step)(x)}));
}

TEST_P(GraphPlanCalls, HalfstepsAttentionHasGradientsByThePlan) {
  const auto w = random({16, 48}).requires_grad_(), x = random({2, 8, 16});
  const auto loss = [](const Tensor& product) {
    const auto heads = product.reshape({2, 8, 3, 4, 4}).permute({2, 0, 3, 1, 4});
    return halfstep::nn::scaled_dot_product_attention(heads[0], heads[1], heads[2])
        .to(torch::kFloat)
        .square()
        .sum();
  };
  const auto given = w.detach().clone().requires_grad_();
  loss(torch::matmul(low(x), low(given))).backward();
  struct Weighted : Step {
    Weighted(const Tensor& weight, Function its_function) : Step(std::move(its_function)) {
      register_parameter("w", weight);
    }
  } step(w, [&](const Tensor& input) {
    const auto result = loss(torch::matmul(input, w));
    result.backward();
    return result;
  });
  step.config().enable_amp(true, kBFloat16).plan_precision().check_replays();
  for (int i = 0; i < 4; ++i) {
    w.mutable_grad() = Tensor();
    step(x);
    EXPECT_TRUE(same_bits({given.grad()}, {w.grad()})) << i;
  }
  EXPECT_EQ(step.replayed_steps(), 2);
}

HALFSTEP_ON_EACH_DEVICE(GraphPlanCalls);

}  // namespace
