// What a recording can't follow is an error that names it, or found by the checked mode: nothing is
// replayed wrongly in silence.
#include "halfstep/autocast.h"
#include "halfstep/core.h"
#include "halfstep/graph.h"
#include "halfstep/optim.h"

#include <stdexcept>

#include <torch/optim.h>

#include "tests/graph/step_test.h"
#include "tests/support/errors.h"
#include <gtest/gtest.h>

namespace {

using halfstep::Graph;
using halfstep::UsageError;
using halfstep::testing::ConvNet;
using halfstep::testing::Mlp;
using halfstep::testing::same_bits;
using halfstep::testing::state_of;
using halfstep::testing::Step;
using torch::Tensor;

class GraphTrap : public halfstep::testing::StepTest {};

TEST_P(GraphTrap, ItemIsAnErrorThatNamesOpAndModule) {
  Step step([](const Tensor& x) {
    const halfstep::ModuleScope scope("head");
    return x * x.sum().item<double>();
  });
  EXPECT_ERROR(step(random({3})), UsageError, "[Graph] a step that is replayed must not depend on",
               "_local_scalar_dense", "in ModuleScope \"head\"", "reads a value on the host");
}

TEST_P(GraphTrap, NonzeroIsAnError) {
  Step step([](const Tensor& x) { return x.nonzero(); });
  EXPECT_ERROR(step(random({3})), UsageError, "nonzero", "size depends on values");
}

TEST_P(GraphTrap, ABranchOnAValueIsAnError) {
  Step step([](const Tensor& x) { return (x.sum() > 0).is_nonzero() ? x + 1 : x - 1; });
  EXPECT_ERROR(step(random({3})), UsageError, "reads a value on the host", "compute it outside");
}

TEST_P(GraphTrap, AComparisonOfTensorsIsAnError) {
  Step step([](const Tensor& x) { return at::equal(x, x + 1) ? x : -x; });
  EXPECT_ERROR(step(random({3})), UsageError, "equal", "reads a value on the host");
}

TEST_P(GraphTrap, PickingByAMaskIsAnError) {
  Step step([](const Tensor& x) { return x.index({x > 0}); });
  EXPECT_ERROR(step(random({3})), UsageError, "index.Tensor", "picks by a mask");
}

TEST_P(GraphTrap, AnErrorThatBuildCatchesIsStillOne) {
  Step step([](const Tensor& x) {
    try {
      return x * x.sum().item<double>();
    } catch (const std::exception&) {
      return x + 1;
    }
  });
  EXPECT_ERROR(step(random({3})), UsageError, "reads a value on the host");
}

TEST_P(GraphTrap, ATensorFromAHostVectorIsAnError) {
  Step step([this](const Tensor& x) {
    return x * torch::tensor(std::vector<float>{1, 2, 3}).to(device());
  });
  EXPECT_ERROR(step(random({3})), UsageError, "written past LibTorch's operations",
               "register it as a buffer");
}

TEST_P(GraphTrap, ATensorNobodyNamedIsAnErrorUntilItIsNamed) {
  const auto weights = random({3});
  const auto function = [&](const Tensor& x) { return x * weights; };
  Step step(function);
  EXPECT_ERROR(step(random({3})), UsageError, "operand other of mul.Tensor", "float32[3]",
               "add_tensor()");
  step.add_tensor("weights", weights);
  expect_same(step, function, {random({3}), random({3}), random({3})});
  weights.mul_(2);
  expect_same(step, function, {random({3})});
  EXPECT_EQ(step.replayed_steps(), 2);
}

TEST_P(GraphTrap, AHostNumberThatChangesIsAnErrorThatNamesIt) {
  double factor = 1;
  Step step([&](const Tensor& x) { return x * (factor += 1); });
  const auto x = random({3});
  step(x);
  step(x);
  EXPECT_ERROR(step(x), UsageError, "build must do the same in each call", "argument other of mul",
               "was 3. once and 4. the next time");
}

TEST_P(GraphTrap, AFirstCallThatSetsUpIsRecordedOnceMore) {
  int calls = 0;
  Step step([&](const Tensor& x) { return ++calls == 1 ? x * 3 : x * 2; });
  const auto x = random({3});
  EXPECT_TRUE(same_bits({x * 3}, {step(x)}));
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(same_bits({x * 2}, {step(x)}));
  EXPECT_EQ(calls, 3);
}

TEST_P(GraphTrap, ABranchOnAHostFlagThatTurnsIsAnError) {
  bool flag = false;
  Step step([&](const Tensor& x) { return (flag = !flag) ? x.exp() : x.sin(); });
  const auto x = random({3});
  step(x);
  step(x);
  EXPECT_ERROR(step(x), UsageError, "call 0 was sin once and exp the next time");
}

TEST_P(GraphTrap, TheCheckedModeFindsAHostBranchTakenLater) {
  int calls = 0;
  Step step([&](const Tensor& x) { return ++calls < 4 ? x * 2 : x * 3; });
  step.config().check_replays();
  const auto x = random({3});
  for (int i = 0; i < 3; ++i) step(x);
  EXPECT_ERROR(step(x), UsageError, "a replay must have the bits of an eager run", "output 0");
}

TEST_P(GraphTrap, TheCheckedModeFindsWritesThroughAPointer) {
  if (!device().is_cpu()) GTEST_SKIP() << "writes host memory";
  const auto table = torch::ones({3});
  Step step([&](const Tensor& x) {
    table.data_ptr<float>()[0] += 1;
    return x * table;
  });
  step.add_tensor("table", table);
  step.config().check_replays();
  const auto x = random({3});
  step(x);
  step(x);
  EXPECT_ERROR(step(x), UsageError, "a replay must have the bits of an eager run");
}

TEST_P(GraphTrap, TheCheckedModeLetsARightStepPass) {
  ConvNet net;
  net->to(device());
  halfstep::optim::Adam adam(net->parameters(), halfstep::optim::AdamOptions(1e-2));
  Step step(net, [&](const Tensor& x) {
    const auto loss = net->forward(x).square().mean();
    loss.backward();
    return loss;
  });
  step.add_optimizer(adam);
  step.config().check_replays().enable_amp();
  for (int i = 0; i < 4; ++i) step(random({4, 1, 8, 8}));
  EXPECT_EQ(step.replayed_steps(), 2);
}

TEST_P(GraphTrap, AnInputChangedInPlaceThatSharesMemoryIsAnError) {
  struct Pair : Graph<Tensor(Tensor, Tensor)> {
    Tensor build(const Tensor& a, const Tensor& b) override { return b.mul_(2) + a; }
  } graph;
  const auto a = random({4});
  EXPECT_ERROR(graph(a, a), UsageError, "must have memory of its own, but input 1 shares it");
}

TEST_P(GraphTrap, AnInputThatRequiresAGradientIsAnError) {
  Step step([](const Tensor& x) { return x * 2; });
  EXPECT_ERROR(step(random({3}).requires_grad_()), UsageError, "input 0", "pass it detached");
}

TEST_P(GraphTrap, BatchNormWithoutMomentumIsAnError) {
  torch::nn::BatchNorm2d norm(torch::nn::BatchNorm2dOptions(6).momentum(std::nullopt));
  norm->to(device());
  Step step(norm, [&](const Tensor& x) { return norm(x); });
  EXPECT_ERROR(step(random({4, 6, 3, 3})), UsageError, "reads a value on the host");
}

TEST_P(GraphTrap, ACallWhileItRunsIsAnError) {
  Step* self = nullptr;
  Step step([&](const Tensor& x) { return (*self)(x); });
  self = &step;
  EXPECT_ERROR(step(random({3})), UsageError, "one call at a time", "from its own build");
}

TEST_P(GraphTrap, OptimizersWithoutGradientsAreAnError) {
  auto net = mlp();
  torch::optim::SGD sgd(net->parameters(), 0.1);
  Step step(net, [&](const Tensor& x) { return net->forward(x).sum(); });
  step.add_optimizer(sgd);
  EXPECT_ERROR(step(random({8, 12})), UsageError, "no parameter got one", "loss.backward()");
  EXPECT_ERROR(step.add_optimizer(sgd), UsageError, "added once");
}

HALFSTEP_ON_EACH_DEVICE(GraphTrap);

}  // namespace
