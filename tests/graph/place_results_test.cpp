// Results that stay in one place from replay to replay, what is made once, and what must not be.
#include "halfstep/graph.h"
#include "halfstep/graph/out_ops.h"
#include "halfstep/graph/passes/pass.h"
#include "halfstep/graph/placed_tensors.h"
#include "halfstep/graph/replay.h"

#include <functional>
#include <set>
#include <string>

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/record_function.h>
#include <torch/types.h>

#include "tests/graph/recorded.h"
#include "tests/graph/steps.h"
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace {

using halfstep::Graph;
using halfstep::detail::PlacedTensors;
using halfstep::detail::Program;
using halfstep::detail::Replay;
using halfstep::testing::recorded;
using halfstep::testing::same_bits;
using halfstep::testing::Tensors;
using torch::Tensor;

using Function = std::function<Tensors(const Tensors&)>;

/// What becomes of the calls of a function, by op, as "exp placed, t once, add.Tensor"; also checks
/// five replays, each on other inputs.
std::string placing(const Function& function, const Tensors& inputs = {torch::randn({3, 4})}) {
  auto program = recorded(function, inputs);
  halfstep::detail::place_results(program);
  std::string text;
  for (const auto& call : program.code) {
    const std::string name = call.op.schema().name();
    text += (text.empty() ? "" : ", ") + name.substr(name.find("::") + 2) +
            (call.placed ? " placed" : "") + (call.once ? " once" : "");
  }
  Replay replay(std::move(program));
  for (int i = 0; i < 5; ++i) {
    Tensors own, others;
    for (const auto& input : inputs) {
      own.push_back(torch::randn_like(input));
      others.push_back(own.back().clone());
    }
    torch::manual_seed(i);
    const auto expected = function(others);
    torch::manual_seed(i);
    EXPECT_TRUE(same_bits(expected, replay.run(own).outputs)) << "replay " << i << " of " << text;
    EXPECT_TRUE(same_bits(others, own));
  }
  return text;
}

TEST(PlaceResults, StayWhereTheyAreUnlessHandedOut) {
  EXPECT_EQ(placing([](const Tensors& x) -> Tensors { return {x[0].exp().sin().mul(2)}; }),
            "exp placed, sin placed, mul");
  // Another view of what is given out.
  EXPECT_EQ(placing([](const Tensors& x) -> Tensors {
              const auto y = x[0].exp();
              return {y.t(), y.sin().sum()};
            }),
            "exp, t, sin placed, sum");
}

TEST(PlaceResults, LargeOnesAreThePlansBusiness) {
  const auto function = [](const Tensors& x) -> Tensors { return {x[0].exp().t().sum(1)}; };
  EXPECT_EQ(placing(function, {torch::randn({128, 128})}), "exp placed, t once, sum");
  EXPECT_EQ(placing(function, {torch::randn({128, 129})}), "exp, t, sum");
}

TEST(PlaceResults, OfReluToo) {
  const auto x = torch::tensor({-1.0F, -0.0F, 0.0F, 2.0F, std::nanf("")});
  const auto function = [](const Tensors& inputs) -> Tensors {
    return {inputs[0].relu().view(at::kInt).add(0)};  // bits
  };
  auto program = recorded(function, {x});
  EXPECT_EQ(halfstep::detail::place_results(program), 2);
  Replay replay(std::move(program));
  EXPECT_TRUE(same_bits(function({x}), replay.run({x}).outputs));
}

TEST(PlaceResults, OfSeveralAtOnce) {
  EXPECT_EQ(placing([](const Tensors& x) -> Tensors {
              const auto [values, indices] = x[0].exp().topk(2, 1);
              return {values.sum() + indices.sum()};
            }),
            "exp placed, topk placed, sum, sum, add");
}

TEST(PlaceResults, WithTheStridesTheyHad) {
  EXPECT_EQ(placing(
                [](const Tensors& x) -> Tensors {
                  const auto y = x[0].exp();
                  return {y.t().view({-1}) * 2, y.sum(1)};
                },
                {torch::randn({4, 3}).t()}),
            "exp placed, t once, view once, mul, sum");
}

TEST(PlaceResults, ViewsOfThemAreMadeOnceInListsToo) {
  EXPECT_EQ(placing([](const Tensors& x) -> Tensors {
              const auto y = x[0].exp();
              const auto parts = y.split(2, 1);
              return {parts[0] + parts[1], y.t().mm(y)};
            }),
            "exp placed, split once, add, t once, mm");
}

TEST(PlaceResults, AreMadeAnewWhereTheyAreWritten) {
  EXPECT_EQ(placing([](const Tensors& x) -> Tensors {
              auto y = x[0].exp();
              y.t().add_(1);
              const auto z = y.sin();
              y.mul_(3);
              return {z + y.sum(0)};
            }),
            "exp placed, t once, add_, sin placed, mul_, sum placed, add");
}

TEST(PlaceResults, WhatChangesItsShapeIsAViewOfIt) {
  EXPECT_EQ(placing([](const Tensors& x) -> Tensors {
              auto y = x[0].exp();
              y.t_();
              return {y.mm(x[0]), y.t().sum(0)};
            }),
            "exp placed, as_strided once, mm, t once, sum");
}

TEST(PlaceResults, NumbersThatDependOnNothingAreMadeOnceUnlessWritten) {
  EXPECT_EQ(placing([](const Tensors& x) -> Tensors {
              auto written = torch::zeros_like(x[0]);
              written.add_(x[0]);
              const auto ones = torch::ones_like(x[0]), to_four = torch::arange(4.0);
              return {ones + to_four + written};
            }),
            "zeros_like, add_, ones_like once, arange once, add placed, add");
  EXPECT_EQ(placing([](const Tensors& x) -> Tensors { return {torch::ones_like(x[0])}; }),
            "ones_like");
}

TEST(PlaceResults, NotOfRandomCallsNorViewsOfInputs) {
  EXPECT_EQ(placing([](const Tensors& x) -> Tensors {
              const auto y = at::bernoulli(x[0].sigmoid(), 0.5);
              return {y + x[0].t().sum(1)};
            }),
            "sigmoid placed, bernoulli, t, sum placed, add");
}

TEST(PlaceResults, NotWhereLibTorchWouldComputeAndCopy) {
  const auto op = [](const char* name, const char* overload = "") {
    return c10::Dispatcher::singleton().findSchemaOrThrow(name, overload);
  };
  const auto out_of = [&](const char* name, const char* overload = "") {
    const auto out = halfstep::detail::out_op_of(op(name, overload));
    return out ? out->schema().name() + "." + out->schema().overload_name() : "none";
  };
  EXPECT_EQ(out_of("aten::mm"), "aten::mm.out");
  EXPECT_EQ(out_of("aten::sum", "dim_IntList"), "aten::sum.IntList_out");
  EXPECT_EQ(out_of("aten::nll_loss_forward"), "aten::nll_loss_forward.output");
  EXPECT_EQ(out_of("aten::native_layer_norm"), "none");
  EXPECT_EQ(out_of("aten::add_", "Tensor"), "none");
}

TEST(PlaceResults, ShareMemoryOnlyWhileNobodyUsesIt) {
  const auto function = [](const Tensors& x) -> Tensors {
    auto y = x[0].exp();
    auto held = y.t();
    for (int i = 0; i < 12; ++i) y = i % 3 == 0 ? y.sin() + held.t() : y.cos();
    return {y};
  };
  placing(function, {torch::randn({30, 40})});
  auto program = recorded(function, {torch::randn({30, 40})});
  halfstep::detail::place_results(program);
  const auto placed = PlacedTensors::of(program);
  EXPECT_GT(placed.count, 10U);
  EXPECT_LE(placed.bytes, 3U * 4864);  // 4,800 bytes, at multiples of 64; three at a time
  std::set<const void*> places;
  for (const auto& tensor : placed.tensors) {
    if (!tensor.defined()) continue;
    places.insert(tensor.data_ptr());
    EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor.data_ptr()) % 64, 0U);
  }
  EXPECT_EQ(places.size(), 3U);
}

TEST(PlaceResults, AViewOfARepeatedResultHoldsTheFirstOnesMemory) {
  const auto function = [](const Tensors& x) -> Tensors {
    const auto first = x[0].exp(), again = x[0].exp();
    const auto view = again.t();
    auto y = first.sin();
    for (int i = 0; i < 6; ++i) y = y.cos();
    return {view + 0, y};
  };
  auto program = recorded(function, {torch::randn({30, 40})});
  EXPECT_EQ(halfstep::detail::reuse_results(program), 1);
  EXPECT_GT(halfstep::detail::place_results(program), 7);
  halfstep::detail::Replay replay(std::move(program));
  for (int i = 0; i < 3; ++i) {
    const auto x = torch::randn({30, 40});
    EXPECT_TRUE(same_bits(function({x}), replay.run({x}).outputs)) << "run " << i;
  }
}

TEST(PlaceResults, TensorsOutliveTheReplay) {
  PlacedTensors placed;
  {
    auto program = recorded([](const Tensors& x) -> Tensors { return {x[0].exp().sum()}; },
                            {torch::randn({1000})});
    halfstep::detail::place_results(program);
    placed = PlacedTensors::of(program);
  }
  for (const auto& tensor : placed.tensors) {
    if (!tensor.defined()) continue;
    EXPECT_EQ(tensor.fill_(2).sum().item<float>(), 2000);
  }
  EXPECT_EQ(placed.count, 1U);
}

struct PlacedForward : Graph<Tensor(Tensor)> {
  explicit PlacedForward(halfstep::testing::Mlp its_net) : net(register_module("net", its_net)) {}
  Tensor build(const Tensor& x) override { return net->forward(x); }
  halfstep::testing::Mlp net;
};

TEST(PlaceResults, ViewsFollowAParameterToOtherMemory) {
  const torch::NoGradGuard no_grad;
  halfstep::testing::Mlp net;
  PlacedForward forward(net);
  const auto x = torch::randn({5, 12});
  for (int i = 0; i < 8; ++i) {
    net->first->weight.set_data(torch::randn({16, 12}));
    if (i % 2 == 1) net->second->weight.mul_(2);
    EXPECT_TRUE(same_bits({net->forward(x)}, {forward(x)})) << "call " << i;
  }
  EXPECT_EQ(forward.replayed_steps(), 6) << forward.last_reason();
  EXPECT_THAT(forward.program(),
              ::testing::HasSubstr("t(net.first.weight)  float32[12, 16]  once"));
  forward.config().enable_pass("place_results", false);
  for (int i = 0; i < 3; ++i) forward(x);
  EXPECT_THAT(forward.program(), ::testing::Not(::testing::HasSubstr("once")));
}

TEST(PlaceResults, ProfilersSeeThem) {
  auto program =
      recorded([](const Tensors& x) -> Tensors { return {x[0].exp().sin()}; }, {torch::randn({3})});
  halfstep::detail::place_results(program);
  Replay replay(std::move(program));
  static std::vector<std::string> seen;
  seen.clear();
  const auto x = torch::randn({3});
  replay.run({x});
  const auto handle = at::addThreadLocalCallback(at::RecordFunctionCallback(
      [](const at::RecordFunction& call) -> std::unique_ptr<at::ObserverContext> {
        seen.emplace_back(call.name());
        return nullptr;
      }));
  replay.run({x});
  at::removeCallback(handle);
  replay.run({x});
  EXPECT_EQ(seen, (std::vector<std::string>{"aten::exp", "aten::sin"}));
}

}  // namespace
