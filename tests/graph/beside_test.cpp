// What others do to the model beside a recorded step: averages, files, hooks, other settings.
#include "halfstep/autocast/autocast.h"
#include "halfstep/core/error.h"
#include "halfstep/graph.h"
#include "halfstep/optim.h"

#include <functional>
#include <sstream>
#include <utility>

#include <torch/serialize.h>

#include "tests/graph/step_test.h"
#include "tests/support/errors.h"
#include <gtest/gtest.h>

namespace {

using halfstep::UsageError;
using halfstep::optim::Adam;
using halfstep::optim::AdamOptions;
using halfstep::testing::Mlp;
using halfstep::testing::same_bits;
using halfstep::testing::state_of;
using halfstep::testing::Step;
using torch::Tensor;

class GraphBeside : public halfstep::testing::StepTest {
 protected:
  /// With the weights of `net`.
  static Mlp copy_of(const Mlp& net) {
    Mlp copy;
    copy->to(net->first->weight.device());
    const torch::NoGradGuard no_grad;
    for (size_t i = 0; i < net->parameters().size(); ++i)
      copy->parameters()[i].copy_(net->parameters()[i]);
    return copy;
  }
  static void swap_data(Mlp& a, Mlp& b) {
    for (size_t i = 0; i < a->parameters().size(); ++i) {
      auto of_a = a->parameters()[i], of_b = b->parameters()[i];
      const auto kept = of_a.detach();
      of_a.set_data(of_b.detach());
      of_b.set_data(kept);
    }
  }
};

TEST_P(GraphBeside, AnAverageThatIsSwappedInForEvaluation) {
  const auto evaluate = [](Mlp net) -> Step::Function {
    return [net](const Tensor& x) mutable { return net->forward(x); };
  };
  struct Side {
    Mlp net, average;
    std::vector<Tensor> seen;
  };
  auto net = mlp();
  Side eager{copy_of(net), copy_of(net), {}}, graph{net, copy_of(net), {}};
  const auto run = [&](Side& side, auto&& train, auto&& test) {
    torch::manual_seed(7);
    for (int i = 0; i < 6; ++i) {
      const auto x = random({8, 12});
      side.seen.push_back(train(x).detach().clone());
      {
        const torch::NoGradGuard no_grad;
        for (size_t p = 0; p < side.net->parameters().size(); ++p)
          side.average->parameters()[p].lerp_(side.net->parameters()[p], 0.3);
      }
      swap_data(side.net, side.average);
      side.seen.push_back(test(x).detach().clone());
      swap_data(side.net, side.average);
    }
    for (const auto* of : {&side.net, &side.average}) {
      for (const auto& tensor : state_of(**of)) side.seen.push_back(tensor);
    }
  };
  Adam adam(eager.net->parameters(), AdamOptions(1e-2));
  run(
      eager,
      [&](const Tensor& x) {
        const auto loss = loss_of(eager.net, x);
        adam.step();
        adam.zero_grad();
        return loss;
      },
      evaluate(eager.net));
  Adam graph_adam(graph.net->parameters(), AdamOptions(1e-2));
  Step train(graph.net, training(graph.net)), test(graph.net, evaluate(graph.net));
  train.add_optimizer(graph_adam);
  run(graph, train, test);
  EXPECT_TRUE(same_bits(eager.seen, graph.seen));
  EXPECT_EQ(train.replayed_steps(), 4);
  EXPECT_EQ(test.replayed_steps(), 4);
}

TEST_P(GraphBeside, AFileLoadedIntoTheModule) {
  auto net = mlp();
  const auto other = mlp();
  std::stringstream file;
  torch::save(other, file);
  const Step::Function function = [net](const Tensor& x) mutable { return net->forward(x); };
  Step step(net, function);
  const auto x = random({8, 12});
  warm_up(step, x);
  const auto before = step(x);
  torch::load(net, file);
  const auto after = step(x);
  EXPECT_TRUE(same_bits({copy_of(other)->forward(x).detach()}, {after}));
  EXPECT_FALSE(at::equal(before, after));
  EXPECT_EQ(step.recorded_steps(), 2);
}

/// What is done to the weights between two steps of a net whose optimizer keeps 16-bit copies.
struct WithCopies {
  explicit WithCopies(Mlp its_net)
      : net(std::move(its_net)),
        adam(net->parameters(), AdamOptions(1e-2).shadow_weights(torch::kBFloat16)) {}
  Tensor step(const Tensor& x) {
    adam.zero_grad();
    Tensor loss;
    {
      const halfstep::Autocast region(
          halfstep::AutocastOptions(x.device().type()).dtype(torch::kBFloat16));
      loss = net->forward(x).square().mean();
    }
    loss.backward();
    adam.step();
    return loss.detach();
  }
  Mlp net;
  Adam adam;
};

TEST_P(GraphBeside, WeightsWith16BitCopiesThatSomebodyElseWrites) {
  auto net = mlp();
  const auto other = mlp();
  std::stringstream file;
  torch::save(other, file);
  const std::vector<std::function<void(Mlp&)>> changes{
      [&](Mlp& of) {
        std::stringstream copy(file.str());
        torch::load(of, copy);
        of->to(device());
      },
      [&](Mlp& of) {
        const torch::NoGradGuard no_grad;
        for (size_t i = 0; i < of->parameters().size(); ++i)
          of->parameters()[i].lerp_(other->parameters()[i], 0.5);
      },
      [&](Mlp& of) { of->second->weight.set_data(other->second->weight.detach() * 2); }};
  WithCopies eager(copy_of(net)), graph(net);
  Step train(graph.net, training(graph.net));
  train.add_optimizer(graph.adam);
  train.config().enable_amp(true, torch::kBFloat16);
  torch::manual_seed(3);
  const auto x = random({8, 12});
  const auto both = [&] { EXPECT_TRUE(same_bits({eager.step(x)}, {train(x)})); };
  for (int i = 0; i < 4; ++i) both();
  EXPECT_NE(train.program().find("reads shadow of net.first.weight  bfloat16"), std::string::npos)
      << train.program();
  for (const auto& change : changes) {
    change(eager.net);
    change(graph.net);
    for (int i = 0; i < 3; ++i) both();
  }
  EXPECT_TRUE(same_bits(state_of(*eager.net), state_of(*graph.net)));
  EXPECT_EQ(train.recorded_steps(), 2) << train.last_reason();
}

TEST_P(GraphBeside, CopiesThatAreDroppedAreReadNoMore) {
  WithCopies graph(mlp());
  Step test(graph.net, [&](const Tensor& x) { return graph.net->forward(x); });
  test.config().enable_amp(true, torch::kBFloat16);  // it knows of no optimizer
  const auto x = random({8, 12});
  warm_up(test, x);
  EXPECT_NE(test.program().find("shadow of"), std::string::npos) << test.program();
  graph.step(x);
  const auto expected = [&] {
    const torch::NoGradGuard no_grad;
    const halfstep::Autocast region(
        halfstep::AutocastOptions(x.device().type()).dtype(torch::kBFloat16));
    return graph.net->forward(x);
  };
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(same_bits({expected()}, {test(x)}));
  EXPECT_EQ(test.last_reason(), "");
  graph.adam.drop_shadow_weights();
  graph.step(x);
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(same_bits({expected()}, {test(x)}));
  EXPECT_EQ(test.program().find("shadow of"), std::string::npos) << test.program();
}

TEST_P(GraphBeside, OtherAccumulationStepsAreRecordedAnew) {
  auto net = mlp();
  auto other = copy_of(net);
  Step step(net, training(net));
  const auto x = random({8, 12});
  warm_up(step, x);
  net->zero_grad();
  step.config().set_gradient_accumulation_steps(2);
  step(x);
  EXPECT_EQ(step.last_reason(), "there is no recording yet");
  for (const auto& part : x.chunk(2)) (other->forward(part).square().mean() / 2).backward();
  for (size_t i = 0; i < net->parameters().size(); ++i)
    EXPECT_TRUE(
        at::allclose(other->parameters()[i].grad(), net->parameters()[i].grad(), 1e-5, 1e-7));
}

TEST_P(GraphBeside, HooksOfParameters) {
  auto net = mlp();
  auto other = copy_of(net);
  for (const auto& of : {net, other}) {
    of->first->weight.register_hook([](const Tensor& gradient) { return gradient * 3; });
    of->first->weight.register_hook([](const Tensor& gradient) { return gradient.clamp(-1, 1); });
  }
  Step step(net, training(net));
  for (int i = 0; i < 5; ++i) {
    const auto x = random({8, 12});
    net->zero_grad();
    other->zero_grad();
    step(x);
    loss_of(other, x);
    EXPECT_TRUE(same_bits({other->first->weight.grad(), other->second->bias.grad()},
                          {net->first->weight.grad(), net->second->bias.grad()}));
  }
  EXPECT_EQ(step.replayed_steps(), 3);
}

TEST_P(GraphBeside, TheCheckedModeFindsAHookThatIsTakenAway) {
  auto net = mlp();
  const auto hook =
      net->first->weight.register_hook([](const Tensor& gradient) { return gradient * 3; });
  Step step(net, training(net));
  step.config().check_replays();
  const auto x = random({8, 12});
  warm_up(step, x);
  net->first->weight.remove_hook(hook);
  EXPECT_ERROR(step(x), UsageError, "a replay must have the bits of an eager run",
               "the gradient of parameter 0");
}

HALFSTEP_ON_EACH_DEVICE(GraphBeside);

}  // namespace
