// Passes that reorder arithmetic, and how the checked mode compares what came of them.
#include "halfstep/graph/reordering.h"

#include "halfstep/core/error.h"
#include "halfstep/graph/check_replay.h"

#include <cmath>
#include <limits>

#include "tests/graph/recorded.h"
#include "tests/support/errors.h"
#include <gtest/gtest.h>

namespace {

using halfstep::UsageError;
using halfstep::detail::check_replay;
using halfstep::detail::Program;
using halfstep::detail::reordered_values;
using halfstep::detail::reordering_bound;
using halfstep::detail::Replay;
using halfstep::detail::too_far;
using halfstep::testing::recorded;
using halfstep::testing::Tensors;
using torch::Tensor;

/// Doubles of the input in three ways: by a call that a pass may change, after it, and apart from
/// it.
Tensors step(const Tensors& inputs) {
  const auto product = inputs[0] * 2.0;
  return {product, product.exp(), inputs[0].neg()};
}

/// A pass that says it reorders the product, and makes it (1 + by) times as large.
Program with_fake_pass(Program program, double by, bool says_so = true) {
  for (auto& call : program.code) {
    if (call.op.schema().name() != "aten::mul") continue;
    call.reorders = says_so;
    for (auto& argument : call.arguments) {
      if (argument.isScalar()) argument = argument.toScalar().toDouble() * (1 + by);
    }
    for (const auto& operand : call.operands) {
      auto& value = program.values[size_t(operand.value)];
      if (value.kind == halfstep::detail::ValueKind::constant)
        value.tensor = value.tensor * (1 + by);
    }
  }
  return program;
}

void check(Program program, const Tensors& inputs) {
  Replay replay(std::move(program));
  check_replay(
      replay.program(), inputs, [&] { return replay.run(inputs); },
      [](const Tensors& own) {
        return halfstep::detail::StepResults{step(own), {}};
      });
}

TEST(Reordering, WithinTheBoundsPassesAndBeyondIsAnError) {
  torch::manual_seed(3);
  for (const auto dtype : {torch::kFloat, torch::kDouble, torch::kBFloat16, torch::kHalf}) {
    SCOPED_TRACE(dtype);
    const Tensors inputs{torch::rand({64}).to(dtype) + 0.5};
    const auto program = recorded(step, inputs);
    const double bound = reordering_bound(dtype);
    check(with_fake_pass(program, 0), inputs);
    check(with_fake_pass(program, bound / 8), inputs);
    EXPECT_ERROR(
        check(with_fake_pass(program, 4 * bound), inputs), UsageError,
        "[Graph] a replay whose passes reorder arithmetic must stay near an eager run, but "
        "output 0 differs by",
        "in element", " eager, ", " replayed), ", " of 64 elements by more than",
        "switch the pass off (config().enable_pass)");
  }
}

TEST(Reordering, WhatAPassDoesNotOwnUpToMustHaveTheBits) {
  torch::manual_seed(3);
  const Tensors inputs{torch::rand({64}) + 0.5};
  const auto program = recorded(step, inputs);
  EXPECT_ERROR(check(with_fake_pass(program, reordering_bound(torch::kFloat) / 8, false), inputs),
               UsageError, "a replay must have the bits of an eager run, but output 0 differs");
}

TEST(Reordering, OnlyWhatComesOfAReorderedCallMayDiffer) {
  const auto sum = torch::zeros({64});
  const auto function = [&](const Tensors& inputs) {
    auto outputs = step(inputs);
    sum.add_(outputs[0]);
    outputs.push_back(outputs[0].to(torch::kBFloat16).to(torch::kFloat));
    outputs.push_back(outputs[0] > 1);
    return outputs;
  };
  const Tensors inputs{torch::rand({64})};
  const auto program = with_fake_pass(recorded(function, inputs, {{"sum", sum}}), 0);
  const auto reordered = reordered_values(program);
  const auto of = [&](size_t output) { return reordered[size_t(*program.outputs[output])]; };
  EXPECT_EQ(of(0), torch::kFloat);
  EXPECT_EQ(of(1), torch::kFloat);
  EXPECT_EQ(of(2), std::nullopt);
  EXPECT_EQ(of(3), torch::kBFloat16);  // the coarsest on the way
  EXPECT_EQ(of(4), torch::kFloat);
  EXPECT_EQ(reordered[size_t(program.inputs[0])], std::nullopt);
  for (size_t id = 0; id < program.values.size(); ++id) {
    if (program.values[id].name != "sum") continue;
    EXPECT_EQ(reordered[id], torch::kFloat);
  }
  EXPECT_THAT(program.to_string(), ::testing::HasSubstr("  reordered\n"));
}

TEST(Reordering, DistanceIsThatOfTheWorstElement) {
  const auto a = torch::tensor({1.0F, -4.0F, 0.5F}), b = torch::tensor({1.0F, -4.5F, 0.75F});
  EXPECT_EQ(too_far(a, b, 0.5), "");
  EXPECT_EQ(too_far(a, b, 0.25),
            "differs by 0.5 in element 1 (-4 eager, -4.5 replayed), 1 of 3 elements by more than "
            "0.25");
  EXPECT_EQ(too_far(Tensor(), Tensor(), 0), "");
  EXPECT_EQ(too_far(a, Tensor(), 1), "is there in one of them only");
  EXPECT_EQ(too_far(a, a.to(torch::kDouble), 1), "has another shape or dtype");
  EXPECT_EQ(too_far(torch::tensor({1, 2}), torch::tensor({1, 5}), 0), "");  // counts: not compared
  const float inf = std::numeric_limits<float>::infinity(), nan = std::nanf("");
  EXPECT_EQ(too_far(torch::tensor({inf, nan}), torch::tensor({inf, nan}), 0), "");
  EXPECT_THAT(too_far(torch::tensor({1.0F}), torch::tensor({nan}), 1), ::testing::HasSubstr("nan"));
  EXPECT_THAT(too_far(torch::tensor({inf}), torch::tensor({-inf}), 1), ::testing::HasSubstr("inf"));
  EXPECT_THAT(too_far(torch::tensor({inf}), torch::tensor({1.0F}), 1), ::testing::HasSubstr("inf"));
}

TEST(Reordering, WhatCancelsOutIsMeasuredByItsNeighbours) {
  // The second output is zero but for rounding, in one order and in the other.
  const Tensors inputs{torch::full({4}, 3.0)};
  const auto function = [](const Tensors& in) {
    const auto product = in[0] * 2.0;
    return Tensors{product, product - in[0] - in[0]};
  };
  const double by = reordering_bound(torch::kFloat) / 256;
  Replay replay(with_fake_pass(recorded(function, inputs), by));
  const auto results = check_replay(
      replay.program(), inputs, [&] { return replay.run(inputs); },
      [&](const Tensors& own) {
        return halfstep::detail::StepResults{function(own), {}};
      });
  EXPECT_NE(results.outputs[1].abs().max().item<float>(), 0);
}

}  // namespace
