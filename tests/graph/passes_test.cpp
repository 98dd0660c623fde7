// Each pass on programs recorded from small functions: what it takes away, what it must leave, and
// that no bit changes.
#include "halfstep/graph.h"

#include <functional>
#include <sstream>

#include "tests/graph/steps.h"
#include "tests/support/errors.h"
#include <gtest/gtest.h>

namespace {

using halfstep::Graph;
using halfstep::UsageError;
using halfstep::testing::same_bits;
using torch::Tensor;

struct PassStep : Graph<std::vector<Tensor>(Tensor)> {
  using Function = std::function<std::vector<Tensor>(const Tensor&)>;
  explicit PassStep(Function its_function) : function(std::move(its_function)) {}
  std::vector<Tensor> build(const Tensor& x) override { return function(x); }
  Function function;
};

constexpr const char* kPasses[] = {"reuse_views",       "drop_inverse_casts", "reuse_results",
                                   "remove_dead_calls", "choose_kernels",     "fuse_batch_norm",
                                   "fuse_elementwise",  "write_in_place",     "place_results"};

int64_t calls_in(const std::string& program) {
  std::istringstream lines(program);
  int64_t count = 0;
  for (std::string line; std::getline(lines, line);) count += line.rfind("  %", 0) == 0 ? 1 : 0;
  return count;
}

/// The calls a replay makes after one pass alone; also checks its results, twice.
int64_t calls_after(const char* only, const PassStep::Function& function) {
  PassStep step(function);
  for (const auto* pass : kPasses)
    step.config().enable_pass(pass, only != nullptr && std::string(pass) == only);
  torch::manual_seed(1);
  for (int i = 0; i < 4; ++i) {
    const auto x = torch::randn({3, 4});
    const auto own = x.clone();
    torch::manual_seed(i);
    const auto expected = function(own);
    torch::manual_seed(i);
    const auto got = step(x);
    EXPECT_TRUE(same_bits(expected, got));
    EXPECT_TRUE(same_bits({own}, {x}));
  }
  EXPECT_EQ(step.replayed_steps(), 2) << step.last_reason();
  return calls_in(step.program());
}

int64_t taken_away(const char* pass, const PassStep::Function& function) {
  return calls_after(nullptr, function) - calls_after(pass, function);
}

TEST(GraphPasses, ReuseViewsOfOneMemory) {
  EXPECT_EQ(taken_away("reuse_views",
                       [](const Tensor& x) -> std::vector<Tensor> {
                         const auto y = x * 2;
                         return {y.t().mm(y), y.t().t().exp(), y.detach().sin()};
                       }),
            3);  // the t taken again, its t, and detach
}

TEST(GraphPasses, AViewThatIsHandedOutIsNotTheInputItself) {
  PassStep step([](const Tensor& x) -> std::vector<Tensor> { return {x.detach()}; });
  const auto x = torch::randn({3});
  for (int i = 0; i < 4; ++i) EXPECT_FALSE(step(x)[0].is_same(x)) << "call " << i;
}

TEST(GraphPasses, AWriteThroughOneOfTwoEqualViewsIsSeenInTheOther) {
  EXPECT_EQ(taken_away("reuse_views",
                       [](const Tensor& x) -> std::vector<Tensor> {
                         auto y = x * 2;
                         auto a = y.t(), b = y.t();
                         a.add_(1);
                         return {b * 3};
                       }),
            1);
}

TEST(GraphPasses, ReuseResultsOfTheSameCast) {
  EXPECT_EQ(taken_away("reuse_results",
                       [](const Tensor& x) -> std::vector<Tensor> {
                         return {x.to(torch::kBFloat16).exp(), x.to(torch::kBFloat16).sin()};
                       }),
            1);
}

TEST(GraphPasses, ReuseResultsOfWholeChains) {
  EXPECT_EQ(taken_away("reuse_results",
                       [](const Tensor& x) -> std::vector<Tensor> {
                         return {(x.exp() * 2).sum() + (x.exp() * 2).mean()};
                       }),
            2);
}

TEST(GraphPasses, ACastOfWhatWasWrittenInBetweenIsMadeAgain) {
  EXPECT_EQ(taken_away("reuse_results",
                       [](const Tensor& x) -> std::vector<Tensor> {
                         auto y = x * 2;
                         const auto before = y.to(torch::kBFloat16).exp();
                         y.t().add_(1);  // through a view
                         return {before, y.to(torch::kBFloat16).sin()};
                       }),
            0);
}

TEST(GraphPasses, ResultsThatAreWrittenOrHandedOutAreNotShared) {
  EXPECT_EQ(taken_away("reuse_results",
                       [](const Tensor& x) -> std::vector<Tensor> {
                         const auto a = x.exp();
                         auto b = x.exp();
                         b.mul_(2);
                         return {a + 1, b + 1};
                       }),
            0);
  EXPECT_EQ(taken_away("reuse_results",
                       [](const Tensor& x) -> std::vector<Tensor> {
                         return {x.exp(), x.exp()};
                       }),
            0);
}

TEST(GraphPasses, RandomCallsAreNotShared) {
  EXPECT_EQ(taken_away(
                "reuse_results",
                [](const Tensor& x) -> std::vector<Tensor> {
                  return {at::bernoulli(x.sigmoid(), 0.5) + 1, at::bernoulli(x.sigmoid(), 0.5) + 1};
                }),
            1);  // the sigmoid alone
}

TEST(GraphPasses, ACastBackIsWhatWasCast) {
  EXPECT_EQ(taken_away("drop_inverse_casts",
                       [](const Tensor& x) -> std::vector<Tensor> {
                         const auto low = x.to(torch::kBFloat16).exp();
                         const auto wide = low.to(torch::kFloat);
                         const auto again = wide.to(torch::kBFloat16).to(torch::kDouble);
                         return {wide.sin(), again.to(torch::kBFloat16).sin()};
                       }),
            2);
  // These round.
  EXPECT_EQ(taken_away("drop_inverse_casts",
                       [](const Tensor& x) -> std::vector<Tensor> {
                         const auto y = x.exp();
                         const auto half = y.to(torch::kHalf);
                         return {y.to(torch::kBFloat16).to(torch::kFloat).sin(),
                                 half.to(torch::kBFloat16).to(torch::kHalf).sin(),
                                 half.to(torch::kFloat).to(torch::kBFloat16).sin()};
                       }),
            0);
}

TEST(GraphPasses, ACastBackStaysWhereItIsWrittenOrHandedOut) {
  EXPECT_EQ(taken_away("drop_inverse_casts",
                       [](const Tensor& x) -> std::vector<Tensor> {
                         auto low = x.to(torch::kBFloat16).exp();
                         auto back = low.to(torch::kFloat).to(torch::kBFloat16);
                         low.add_(1);
                         return {back.sin(), low.sin()};
                       }),
            0);
  EXPECT_EQ(taken_away("drop_inverse_casts",
                       [](const Tensor& x) -> std::vector<Tensor> {
                         auto low = x.to(torch::kBFloat16).exp();
                         auto wide = low.to(torch::kFloat);
                         wide.add_(1);
                         return {wide.to(torch::kBFloat16).sin(), low.sin()};
                       }),
            0);
  EXPECT_EQ(taken_away("drop_inverse_casts",
                       [](const Tensor& x) -> std::vector<Tensor> {
                         const auto low = x.to(torch::kBFloat16).exp();
                         return {low.to(torch::kFloat).to(torch::kBFloat16), low.sin()};
                       }),
            0);
  // Other strides.
  EXPECT_EQ(
      taken_away("drop_inverse_casts",
                 [](const Tensor& x) -> std::vector<Tensor> {
                   const auto low = x.to(torch::kBFloat16).exp().t();
                   return {low.to(torch::kFloat)
                               .to(torch::kBFloat16, false, false, torch::MemoryFormat::Contiguous)
                               .view({-1})
                               .sin()};
                 }),
      0);
}

TEST(GraphPasses, DeadCallsGo) {
  EXPECT_EQ(taken_away("remove_dead_calls",
                       [](const Tensor& x) -> std::vector<Tensor> {
                         x.exp().sin();
                         return {x * 2};
                       }),
            2);
}

TEST(GraphPasses, DeadWritesAndRandomCallsStay) {
  EXPECT_EQ(taken_away("remove_dead_calls",
                       [](const Tensor& x) -> std::vector<Tensor> {
                         x.add_(1);
                         at::bernoulli(x.sigmoid(), 0.5);  // moves the generator on
                         return {torch::rand({3})};
                       }),
            0);
}

TEST(GraphPasses, WhatIsTheSameWithoutTheCastsIsMadeOnce) {
  const PassStep::Function function = [](const Tensor& x) -> std::vector<Tensor> {
    const auto low = x.to(torch::kBFloat16).exp();
    return {low.sin().mean(), low.to(torch::kFloat).to(torch::kBFloat16).sin().sum()};
  };
  PassStep step(function);
  for (int i = 0; i < 3; ++i) step(torch::ones({2, 2}));
  EXPECT_EQ(calls_in(step.program()), 5) << step.program();  // the cast, exp, sin, mean, sum
}

TEST(GraphPasses, AllTogetherAndTheirDumps) {
  PassStep step(
      [](const Tensor& x) -> std::vector<Tensor> { return {(x.detach().exp() + x.exp()).sum()}; });
  std::ostringstream out;
  step.debug(3, out);
  for (int i = 0; i < 3; ++i) step(torch::ones({2, 2}));
  for (const char* part :
       {"as recorded\n", "[Graph] reuse_views took 1 calls away\n",
        "[Graph] reuse_results took 1 calls away\n",
        "[Graph] remove_dead_calls took 0 calls away\n", "3 calls, 0 gradients\n"})
    EXPECT_THAT(out.str(), ::testing::HasSubstr(part));
  EXPECT_ERROR(
      step.config().enable_pass("fuse"), UsageError,
      "must be one of plan_memory, cuda_graph, reuse_views, drop_inverse_casts, reuse_results, "
      "remove_dead_calls, "
      "choose_kernels, lower_convolutions, fuse_batch_norm, fuse_elementwise, write_in_place, "
      "place_results, but got "
      "\"fuse\"");
}

}  // namespace
