// What others do to the model beside a recorded step: averages, files, hooks, other settings.
#include "halfstep/core/error.h"
#include "halfstep/graph.h"
#include "halfstep/optim.h"

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
  static Tensor loss_of(Mlp net, const Tensor& x) {
    const auto loss = net->forward(x).square().mean();
    loss.backward();
    return loss;
  }
  static Step::Function training(const Mlp& net) {
    return [net](const Tensor& x) { return loss_of(net, x); };
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
