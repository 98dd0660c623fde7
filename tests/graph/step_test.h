#pragma once
#include "halfstep/graph.h"

#include <functional>
#include <utility>
#include <vector>

#include <torch/types.h>
#include <torch/utils.h>

#include "tests/graph/steps.h"
#include "tests/support/devices.h"

namespace halfstep::testing {

/// A graph of any function, over any modules.
struct Step : Graph<torch::Tensor(torch::Tensor)> {
  using Function = std::function<torch::Tensor(const torch::Tensor&)>;
  explicit Step(Function its_function) : function(std::move(its_function)) {}
  template <class Net>
  Step(Net net, Function its_function) : function(std::move(its_function)) {
    register_module("net", net);
  }
  torch::Tensor build(const torch::Tensor& x) override { return function(x); }
  Function function;
};

/// Random inputs and a small network on each device.
class StepTest : public DeviceTest {
 protected:
  void SetUp() override {
    DeviceTest::SetUp();
    torch::manual_seed(5);
  }
  torch::Tensor random(at::IntArrayRef sizes) const { return torch::randn(sizes, device()); }
  Mlp mlp() const {
    Mlp net;
    net->to(device());
    return net;
  }
  /// A loss of `net` and its gradients.
  static torch::Tensor loss_of(Mlp net, const torch::Tensor& x) {
    const auto loss = net->forward(x).square().mean();
    loss.backward();
    return loss;
  }
  static Step::Function training(const Mlp& net) {
    return [net](const torch::Tensor& x) { return loss_of(net, x); };
  }
  /// Calls `step` until it replays.
  void warm_up(Step& step, const torch::Tensor& x) const {
    for (int i = 0; i < 3; ++i) step(x);
    ASSERT_EQ(step.replayed_steps(), 1) << step.last_reason();
  }
  /// The results of `function` and of its replay for fresh inputs, side by side.
  void expect_same(Step& step, const Step::Function& function,
                   const std::vector<torch::Tensor>& inputs) {
    for (const auto& x : inputs) {
      const auto expected = function(x.clone());
      EXPECT_TRUE(same_bits({expected.detach()}, {step(x)}));
    }
  }
};

}  // namespace halfstep::testing
