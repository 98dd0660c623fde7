// Nothing is replayed wrongly in silence: what a recording can't follow is an error that names it,
// what changed is recorded anew, and the rest has the bits of eager code.
#include "halfstep/autocast.h"
#include "halfstep/core.h"
#include "halfstep/graph.h"
#include "halfstep/graph/recorder.h"
#include "halfstep/optim.h"

#include <functional>
#include <stdexcept>
#include <thread>

#include <ATen/autocast_mode.h>
#include <torch/autograd.h>
#include <torch/optim.h>

#include "tests/graph/steps.h"
#include "tests/support/devices.h"
#include "tests/support/errors.h"
#include <gtest/gtest.h>

namespace {

using halfstep::Graph;
using halfstep::UsageError;
using halfstep::testing::ConvNet;
using halfstep::testing::Mlp;
using halfstep::testing::same_bits;
using halfstep::testing::state_of;
using torch::Tensor;

/// A graph of any function, over any modules.
struct Step : Graph<Tensor(Tensor)> {
  using Function = std::function<Tensor(const Tensor&)>;
  explicit Step(Function its_function) : function(std::move(its_function)) {}
  template <class Net>
  Step(Net net, Function its_function) : function(std::move(its_function)) {
    register_module("net", net);
  }
  Tensor build(const Tensor& x) override { return function(x); }
  Function function;
};

class GraphTrap : public halfstep::testing::DeviceTest {
 protected:
  void SetUp() override {
    DeviceTest::SetUp();
    torch::manual_seed(5);
  }
  Tensor random(at::IntArrayRef sizes) const { return torch::randn(sizes, device()); }
  Mlp mlp() const {
    Mlp net;
    net->to(device());
    return net;
  }
  /// Calls `step` until it replays.
  void warm_up(Step& step, const Tensor& x) const {
    for (int i = 0; i < 3; ++i) step(x);
    ASSERT_EQ(step.replayed_steps(), 1) << step.last_reason();
  }
  /// The results of `function` and of its replay for fresh inputs, side by side.
  void expect_same(Step& step, const Step::Function& function, const std::vector<Tensor>& inputs) {
    for (const auto& x : inputs) {
      const auto expected = function(x.clone());
      EXPECT_TRUE(same_bits({expected.detach()}, {step(x)}));
    }
  }
};

TEST_P(GraphTrap, ItemIsAnErrorThatNamesOpAndModule) {
  Step step([](const Tensor& x) {
    const halfstep::ModuleScope scope("head");
    return x * x.sum().item<double>();
  });
  EXPECT_ERROR(step(random({3})), UsageError, "[Graph] a step that is replayed must not depend on",
               "_local_scalar_dense", "in module \"head\"", "reads a value on the host");
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

TEST_P(GraphTrap, InputsThatShareMemory) {
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

TEST_P(GraphTrap, AnInputThatIsAlsoAWeight) {
  auto net = mlp();
  const auto function = [&](const Tensor& x) { return net->first->weight * 2 + x; };
  Step step(net, function);
  const auto weight = net->first->weight.detach();
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(same_bits({weight * 3}, {step(weight)}));
  const auto x = torch::ones_like(weight);
  EXPECT_TRUE(same_bits({weight * 2 + x}, {step(x)}));
}

TEST_P(GraphTrap, StridedInputs) {
  const auto function = [](const Tensor& x) { return x.contiguous().view({-1}) * 2; };
  Step step(function);
  warm_up(step, random({3, 4}));
  expect_same(step, function, {random({4, 3}).t(), random({3, 8}).slice(1, 0, 8, 2)});
  const auto large = random({9, 4});
  expect_same(step, function, {large.narrow(0, 3, 3), large.narrow(0, 6, 3)});
}

TEST_P(GraphTrap, AnInputOfAnotherOffsetUnderAsStrided) {
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

TEST_P(GraphTrap, AnInputChangedInPlaceIsChangedByReplaysToo) {
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

TEST_P(GraphTrap, APinnedInput) {
  HALFSTEP_REQUIRE_CUDA(1);
  const auto function = [](const Tensor& x) { return x.to(torch::kCUDA) * 2; };
  Step step(function);
  for (int i = 0; i < 4; ++i) {
    const auto x = torch::randn({3}).pin_memory();
    EXPECT_TRUE(same_bits({function(x)}, {step(x)}));
  }
}

TEST_P(GraphTrap, ASmallerLastBatchIsRecordedOnItsOwn) {
  auto net = mlp();
  const auto function = [&](const Tensor& x) { return net->forward(x); };
  Step step(net, function);
  warm_up(step, random({8, 12}));
  expect_same(step, function, {random({5, 12})});
  EXPECT_EQ(step.last_reason(), "inputs of a new shape, dtype or nesting");
  expect_same(step, function, {random({8, 12})});
  EXPECT_EQ(step.last_reason(), "");
  EXPECT_EQ(step.replayed_steps(), 2);
}

TEST_P(GraphTrap, KeptRecordingsAreBounded) {
  Step step([](const Tensor& x) { return x * 2; });
  step.config().set_max_recordings(2);
  warm_up(step, random({1}));
  step(random({2}));
  step(random({3}));
  step(random({1}));
  EXPECT_EQ(step.last_reason(), "inputs of a new shape, dtype or nesting");
}

TEST_P(GraphTrap, AnotherTensorInTheModuleIsSeen) {
  auto net = mlp();
  const auto function = [&](const Tensor& x) { return net->forward(x); };
  Step step(net, function);
  const auto x = random({8, 12});
  warm_up(step, x);
  net->second->bias = torch::ones_like(net->second->bias);
  EXPECT_ERROR(step(x), UsageError, "operand", "is none of them");  // not registered any more
  net->second->register_parameter("other", net->second->bias);
  EXPECT_TRUE(same_bits({net->forward(x).detach()}, {step(x)}));
}

TEST_P(GraphTrap, OtherMemoryInAParameterIsSeen) {
  auto net = mlp();
  const auto function = [&](const Tensor& x) { return net->forward(x); };
  Step step(net, function);
  warm_up(step, random({8, 12}));
  net->second->weight.set_data(random({4, 16}));
  expect_same(step, function, {random({8, 12})});
  net->to(torch::kDouble);
  expect_same(step, function, {random({8, 12}).to(torch::kDouble)});
  EXPECT_EQ(step.last_reason(), "net.first.weight became float64[16, 12]");
}

TEST_P(GraphTrap, AFrozenParameterIsSeen) {
  auto net = mlp();
  Step step(net, [&](const Tensor& x) {
    const auto loss = net->forward(x).sum();
    loss.backward();
    return loss;
  });
  warm_up(step, random({8, 12}));
  net->zero_grad();
  net->first->weight.requires_grad_(false);
  step(random({8, 12}));
  EXPECT_EQ(step.last_reason(), "net.first.weight was frozen");
  EXPECT_FALSE(net->first->weight.grad().defined());
  EXPECT_TRUE(net->first->bias.grad().defined());
}

TEST_P(GraphTrap, LoadedAndAveragedWeightsAreRead) {
  auto net = mlp();
  auto other = mlp();
  const auto function = [&](const Tensor& x) { return net->forward(x); };
  Step step(net, function);
  warm_up(step, random({8, 12}));
  {
    const torch::NoGradGuard no_grad;
    const auto from = other->parameters();
    const auto to = net->parameters();
    for (size_t i = 0; i < to.size(); ++i) to[i].copy_(from[i]);  // as load_state_dict
    for (size_t i = 0; i < to.size(); ++i) to[i].lerp_(from[i] * 2, 0.1);
  }
  expect_same(step, function, {random({8, 12})});
  EXPECT_EQ(step.last_reason(), "");
}

TEST_P(GraphTrap, RunningStatisticsMoveAndGetAVersion) {
  ConvNet net(0.0), other(0.0);
  net->to(device());
  other->to(device());
  Step step(net, [&](const Tensor& x) { return net->norm(x); });
  const auto before = net->norm->running_mean.clone();
  for (int i = 0; i < 4; ++i) {
    const auto x = random({4, 6, 3, 3});
    const auto version = net->norm->running_mean._version();
    step(x);
    other->norm(x);
    // LibTorch's own batch norm gives them none.
    const bool replayed = step.replayed_steps() > 0;
    EXPECT_TRUE(!replayed || net->norm->running_mean._version() > version);
  }
  EXPECT_TRUE(same_bits(state_of(*other->norm), state_of(*net->norm)));
  EXPECT_FALSE(same_bits({before}, {net->norm->running_mean}));
}

TEST_P(GraphTrap, TrainAndEvalAreRecordedApart) {
  ConvNet net(0.0);
  net->to(device());
  Step step(net, [&](const Tensor& x) { return net->norm(x); });
  const auto x = random({4, 6, 3, 3});
  warm_up(step, x);
  net->eval();
  const auto expected = net->norm(x).detach();
  EXPECT_TRUE(same_bits({expected}, {step(x)}));
  EXPECT_EQ(step.last_reason(), "train() or eval() was called on a halfstep::testing::ConvNetImpl");
}

TEST_P(GraphTrap, BatchNormWithoutMomentumIsAnError) {
  torch::nn::BatchNorm2d norm(torch::nn::BatchNorm2dOptions(6).momentum(std::nullopt));
  norm->to(device());
  Step step(norm, [&](const Tensor& x) { return norm(x); });
  EXPECT_ERROR(step(random({4, 6, 3, 3})), UsageError, "reads a value on the host");
}

TEST_P(GraphTrap, DropoutStaysRandomAndReproducible) {
  const auto function = [](const Tensor& x) { return torch::dropout(x, 0.5, true); };
  Step step(function);
  const auto x = torch::ones({64}, device());
  warm_up(step, x);
  EXPECT_FALSE(at::equal(step(x), step(x)));
  torch::manual_seed(9);
  const auto expected = function(x);
  torch::manual_seed(9);
  EXPECT_TRUE(same_bits({expected}, {step(x)}));
}

TEST_P(GraphTrap, AnExceptionInBuildLeavesGradientsAndTheGraphUsable) {
  auto net = mlp();
  bool fail = false;
  const auto function = [&](const Tensor& x) {
    const auto loss = net->forward(x).sum();
    loss.backward();
    if (fail) throw std::runtime_error("from build");
    return loss;
  };
  Step step(net, function);
  step(random({8, 12}));
  const auto gradient = net->first->weight.grad().clone();
  fail = true;
  EXPECT_THROW(step(random({8, 12})), std::runtime_error);
  EXPECT_TRUE(same_bits({gradient}, {net->first->weight.grad()}));
  EXPECT_EQ(halfstep::detail::Recorder::current(), nullptr);
  fail = false;
  net->zero_grad();
  warm_up(step, random({8, 12}));
}

TEST_P(GraphTrap, TwoGraphsOverOneModel) {
  auto net = mlp();
  halfstep::optim::Adam adam(net->parameters(), halfstep::optim::AdamOptions(1e-2));
  Step train(net, [&](const Tensor& x) {
    const auto loss = net->forward(x).square().mean();
    loss.backward();
    return loss;
  });
  train.add_optimizer(adam);
  const auto evaluate = [&](const Tensor& x) { return net->forward(x); };
  Step test(net, evaluate);
  for (int i = 0; i < 4; ++i) {
    train(random({8, 12}));
    expect_same(test, evaluate, {random({8, 12})});
  }
  EXPECT_EQ(train.replayed_steps(), 2);
  EXPECT_EQ(test.replayed_steps(), 2);
}

TEST_P(GraphTrap, AnotherThreadMayReplay) {
  auto net = mlp();
  const auto function = [&](const Tensor& x) { return net->forward(x); };
  Step step(net, function);
  const auto x = random({8, 12});
  warm_up(step, x);
  Tensor result;
  std::thread([&] { result = step(x); }).join();
  EXPECT_TRUE(same_bits({function(x).detach()}, {result}));
  EXPECT_EQ(step.replayed_steps(), 2);
}

TEST_P(GraphTrap, ACallWhileItRunsIsAnError) {
  Step* self = nullptr;
  Step step([&](const Tensor& x) { return (*self)(x); });
  self = &step;
  EXPECT_ERROR(step(random({3})), UsageError, "one call at a time", "from its own build");
}

TEST_P(GraphTrap, DoubleBackward) {
  auto net = mlp(), other = mlp();
  {
    const torch::NoGradGuard no_grad;
    for (size_t i = 0; i < net->parameters().size(); ++i)
      other->parameters()[i].copy_(net->parameters()[i]);
  }
  const auto penalised = [](Mlp& of, const Tensor& x) {
    const auto loss = of->forward(x).square().mean();
    const auto gradients =
        torch::autograd::grad({loss}, {of->first->weight}, {}, true, /*create_graph=*/true);
    const auto total = loss + gradients[0].square().sum();
    total.backward();
    return total;
  };
  Step step(net, [&](const Tensor& x) { return penalised(net, x); });
  for (int i = 0; i < 4; ++i) {
    const auto x = random({8, 12});
    net->zero_grad();
    other->zero_grad();
    const auto result = step(x);
    EXPECT_TRUE(same_bits({penalised(other, x).detach()}, {result}));
    EXPECT_TRUE(same_bits({other->first->weight.grad()}, {net->first->weight.grad()}));
  }
  EXPECT_EQ(step.replayed_steps(), 2);
}

TEST_P(GraphTrap, AHookOnATensor) {
  auto net = mlp(), other = mlp();
  const auto hooked = [](Mlp& of, const Tensor& x) {
    auto hidden = of->first(x);
    hidden.register_hook([](const Tensor& gradient) { return gradient * 3; });
    const auto loss = of->second(hidden).sum();
    loss.backward();
    return loss;
  };
  for (size_t i = 0; i < net->parameters().size(); ++i)
    other->parameters()[i].set_data(net->parameters()[i].detach());
  Step step(net, [&](const Tensor& x) { return hooked(net, x); });
  for (int i = 0; i < 4; ++i) {
    const auto x = random({8, 12});
    net->zero_grad();
    other->zero_grad();
    step(x);
    hooked(other, x);
    EXPECT_TRUE(same_bits({other->first->weight.grad()}, {net->first->weight.grad()}));
  }
}

TEST_P(GraphTrap, GradientsAddUpAcrossCallsWithoutOptimizers) {
  auto net = mlp();
  Step step(net, [&](const Tensor& x) {
    const auto loss = net->forward(x).sum();
    loss.backward();
    return loss;
  });
  const auto x = random({8, 12});
  warm_up(step, x);
  net->zero_grad();
  step(x);
  const auto once = net->first->weight.grad().clone();
  step(x);
  EXPECT_TRUE(same_bits({once + once}, {net->first->weight.grad()}));
}

TEST_P(GraphTrap, OutputsOfEarlierCallsStay) {
  Step step([](const Tensor& x) { return x * 2; });
  warm_up(step, random({3}));
  const auto a = random({3}), b = random({3});
  const auto of_a = step(a), of_b = step(b);
  EXPECT_TRUE(same_bits({a * 2, b * 2}, {of_a, of_b}));
  EXPECT_FALSE(of_a.requires_grad());
}

TEST_P(GraphTrap, OptimizersWithoutGradientsAreAnError) {
  auto net = mlp();
  torch::optim::SGD sgd(net->parameters(), 0.1);
  Step step(net, [&](const Tensor& x) { return net->forward(x).sum(); });
  step.add_optimizer(sgd);
  EXPECT_ERROR(step(random({8, 12})), UsageError, "no parameter got one", "loss.backward()");
  EXPECT_ERROR(step.add_optimizer(sgd), UsageError, "added once");
}

TEST_P(GraphTrap, ACastCacheFromBeforeIsNotRecorded) {
  auto net = mlp();
  const auto x = random({8, 12});
  const halfstep::Autocast around(device().type());
  net->forward(x);  // fills the cache
  Step step(net, [&](const Tensor& y) { return net->forward(y); });
  step.config().enable_amp();
  const auto before = step(x);
  step(x);
  {
    const torch::NoGradGuard no_grad;
    net->second->weight.mul_(2);
  }
  at::autocast::clear_cache();
  const auto expected = net->forward(x).detach();
  EXPECT_TRUE(same_bits({expected}, {step(x)}));
  EXPECT_EQ(step.replayed_steps(), 1);
  EXPECT_FALSE(at::equal(before, expected));
}

HALFSTEP_ON_EACH_DEVICE(GraphTrap);

}  // namespace
