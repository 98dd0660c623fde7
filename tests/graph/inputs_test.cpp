// Inputs that share memory, lie otherwise, change or have another shape, and the reasons told for
// what is recorded anew because of them.
#include "halfstep/core.h"
#include "halfstep/graph.h"

#include "tests/graph/step_test.h"
#include "tests/support/errors.h"
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace {

using halfstep::Graph;
using halfstep::UsageError;
using halfstep::testing::same_bits;
using halfstep::testing::Step;
using torch::Tensor;

class GraphInputs : public halfstep::testing::StepTest {};

TEST_P(GraphInputs, InputsThatShareMemory) {
  struct Pair : Graph<Tensor(Tensor, Tensor)> {
    Tensor build(const Tensor& a, const Tensor& b) override { return a * 2 + b; }
  } graph;
  const auto a = random({4}), b = random({4});
  graph(a, a);
  graph(a, a);
  EXPECT_TRUE(same_bits({a * 2 + b}, {graph(a, b)}));
  EXPECT_TRUE(same_bits({a * 2 + a}, {graph(a, a)}));
  EXPECT_TRUE(same_bits({a.slice(0, 0, 2) * 2 + a.slice(0, 1, 3)},
                        {graph(a.slice(0, 0, 2), a.slice(0, 1, 3))}));
}

TEST_P(GraphInputs, AnInputThatIsAlsoAWeight) {
  auto net = mlp();
  const auto function = [&](const Tensor& x) { return net->first->weight * 2 + x; };
  Step step(net, function);
  const auto weight = net->first->weight.detach();
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(same_bits({weight * 3}, {step(weight)}));
  const auto x = torch::ones_like(weight);
  EXPECT_TRUE(same_bits({weight * 2 + x}, {step(x)}));
}

TEST_P(GraphInputs, StridedInputs) {
  const auto function = [](const Tensor& x) { return x.contiguous().view({-1}) * 2; };
  Step step(function);
  warm_up(step, random({3, 4}));
  expect_same(step, function, {random({4, 3}).t(), random({3, 8}).slice(1, 0, 8, 2)});
  const auto large = random({9, 4});
  expect_same(step, function, {large.narrow(0, 3, 3), large.narrow(0, 6, 3)});
}

TEST_P(GraphInputs, AnInputWhoseElementsAreOneNumber) {
  const auto function = [](const Tensor& x) { return (x + 1).sum(0); };
  Step step(function);
  warm_up(step, random({1, 3}).expand({5, 3}));
  expect_same(step, function, {random({1, 3}).expand({5, 3}), random({5, 3})});
  EXPECT_EQ(step.last_reason(), "input 0 lies otherwise in its memory (strides)");
  Step writes([](const Tensor& x) { return x.add_(1); });
  EXPECT_THROW(writes(random({1, 3}).expand({5, 3})), c10::Error);  // as in eager code
}

TEST_P(GraphInputs, AnInputOfAnotherOffsetUnderAsStrided) {
  const auto function = [](const Tensor& x) {
    return at::as_strided(x, {2, 2}, {2, 1}, x.storage_offset()) * 2;
  };
  Step step(function);
  warm_up(step, random({4}));
  const auto large = random({12});
  for (int i = 0; i < 3; ++i) {
    const auto x = large.narrow(0, 4, 4);
    EXPECT_TRUE(same_bits({function(x)}, {step(x)}));
  }
}

TEST_P(GraphInputs, AnInputChangedInPlaceIsChangedByReplaysToo) {
  Step step([](const Tensor& x) { return x.mul_(2) + 1; });
  for (int i = 0; i < 4; ++i) {
    const auto x = random({3});
    const auto expected = x * 2;
    const auto version = x._version();
    const auto result = step(x);
    EXPECT_TRUE(same_bits({expected, expected + 1}, {x, result}));
    EXPECT_GT(x._version(), version);
  }
}

TEST_P(GraphInputs, APinnedInput) {
  HALFSTEP_REQUIRE_CUDA(1);
  const auto function = [](const Tensor& x) { return x.to(torch::kCUDA) * 2; };
  Step step(function);
  for (int i = 0; i < 4; ++i) {
    const auto x = torch::randn({3}).pin_memory();
    EXPECT_TRUE(same_bits({function(x)}, {step(x)}));
  }
}

TEST_P(GraphInputs, ASmallerLastBatchIsRecordedOnItsOwn) {
  auto net = mlp();
  const auto function = [&](const Tensor& x) { return net->forward(x); };
  Step step(net, function);
  warm_up(step, random({8, 12}));
  expect_same(step, function, {random({5, 12})});
  EXPECT_THAT(step.last_reason(), ::testing::StartsWith("input 0 is float32[5, 12]"));
  EXPECT_THAT(step.last_reason(), ::testing::HasSubstr(", not float32[8, 12]"));
  expect_same(step, function, {random({8, 12})});
  EXPECT_EQ(step.last_reason(), "");
  EXPECT_EQ(step.replayed_steps(), 2);
}

TEST_P(GraphInputs, KeptRecordingsAreBounded) {
  Step step([](const Tensor& x) { return x * 2; });
  step.config().set_max_recordings(2);
  warm_up(step, random({1}));
  step(random({2}));
  step(random({3}));
  step(random({1}));
  EXPECT_THAT(step.last_reason(),
              ::testing::HasSubstr("; the recording used longest ago was dropped "
                                   "(max_recordings is 2)"));
}

TEST_P(GraphInputs, AReasonSaysWhatIsNew) {
  Step step([](const Tensor& x) { return x * 2; });
  const auto told = [&](const Tensor& x) {
    step(x);
    return step.last_reason();
  };
  EXPECT_EQ(told(random({4, 3})), "there is no recording yet");
  EXPECT_THAT(told(random({4, 3}).to(torch::kDouble)), ::testing::StartsWith("input 0 is float64"));
  EXPECT_EQ(told(random({3, 4}).to(torch::kDouble).t()),
            "input 0 lies otherwise in its memory (strides)");
  {
    const torch::NoGradGuard no_grad;
    EXPECT_EQ(told(random({3, 4}).to(torch::kDouble).t()),
              "gradients are not recorded (NoGradGuard)");
  }
  told(random({4, 3}));
  {
    // Not because of the gradients: such a recording is there.
    const torch::NoGradGuard no_grad;
    EXPECT_THAT(told(random({2, 4}).to(torch::kDouble).t()),
                ::testing::StartsWith("input 0 is float64[4, 2]"));
  }
}

TEST_P(GraphInputs, ConjugateAndNegativeViewsAreErrors) {
  Step step([](const Tensor& x) { return x * 2; });
  const auto x = random({3, 2});
  warm_up(step, x.select(1, 0));
  const auto conjugate = at::view_as_complex(x).conj();
  EXPECT_ERROR(step(conjugate), UsageError, "input 0 is a conjugate or negative view",
               "resolve_conj()");
  EXPECT_ERROR(step(at::imag(conjugate)), UsageError, "input 0 is a conjugate or negative view");
}

HALFSTEP_ON_EACH_DEVICE(GraphInputs);

}  // namespace
