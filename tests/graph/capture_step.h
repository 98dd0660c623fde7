#pragma once
#include "halfstep/optim.h"
#include "halfstep/scaling.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include <ATen/CPUGeneratorImpl.h>

#include "tests/graph/capture_on_cpu.h"
#include "tests/graph/step_test.h"
#include <gtest/gtest.h>

namespace halfstep::testing {

/// A step that trains `net` on the mean of its squared outputs.
inline Step::Function mean_square(Mlp net) {
  return [net = std::move(net)](const torch::Tensor& x) mutable {
    const auto loss = net->forward(x).square().mean();
    loss.backward();
    return loss;
  };
}

/// A network, an optimizer of it and a scaler in a graph.
struct Captured {
  template <class Optimizer, class Options>
  static Captured with(c10::Device device, Options options, bool capture = true) {
    torch::manual_seed(3);
    Mlp net;
    net->to(device);
    auto optimizer = std::make_unique<Optimizer>(net->parameters(), std::move(options));
    return {net, std::move(optimizer), capture};
  }

  Captured(Mlp its_net, std::unique_ptr<optim::FusedOptimizer> its_optimizer, bool capture)
      : net(std::move(its_net)),
        optimizer(std::move(its_optimizer)),
        scaler(std::make_unique<GradScaler>(GradScalerOptions(net->first->weight.device().type())
                                                .init_scale(256)
                                                .growth_interval(3))),
        step(std::make_unique<Step>(net, mean_square(net))) {
    step->config().enable_pass("cuda_graph", capture);
    step->add_optimizer(*optimizer);
    step->set_grad_scaler(*scaler);
  }

  /// Steps on random numbers; in the steps of `overflows` with an infinity among them.
  void run(int steps, const std::vector<int>& overflows = {}) {
    for (int i = 0; i < steps; ++i, ++done) {
      auto x = torch::randn({8, 12}, numbers).to(net->first->weight.device());
      if (std::find(overflows.begin(), overflows.end(), done) != overflows.end())
        x[0][0] = std::numeric_limits<float>::infinity();
      losses.push_back((*step)(x).nan_to_num());
    }
  }
  /// Until the next call is launched.
  void warm_up() {
    run(4);
    ASSERT_EQ(step->captured_steps(), 0);
  }
  /// One call more, which is a launch of everything.
  void expect_whole_launch() {
    const auto before = step->captured_steps();
    run(1);
    EXPECT_EQ(step->captured_steps(), before + 1) << step->why_not_captured();
    EXPECT_EQ(step->why_step_not_captured(), "");
  }

  Mlp net;
  std::unique_ptr<optim::FusedOptimizer> optimizer;
  std::unique_ptr<GradScaler> scaler;
  std::unique_ptr<Step> step;
  std::vector<torch::Tensor> losses;
  int done = 0;
  at::Generator numbers = at::make_generator<at::CPUGeneratorImpl>(11);
};

/// The tensors that an optimizer keeps, parameter by parameter.
inline std::vector<torch::Tensor> state_of(optim::FusedOptimizer& optimizer) {
  std::vector<torch::Tensor> tensors;
  for (const auto& group : optimizer.param_groups()) {
    for (const auto& parameter : group.params()) {
      const auto found = optimizer.state().find(parameter.unsafeGetTensorImpl());
      if (found == optimizer.state().end()) continue;
      const auto& state = static_cast<const optim::FusedState&>(*found->second);
      for (const auto* tensor :
           {&state.step, &state.buffers[0], &state.buffers[1], &state.buffers[2], &state.master}) {
        if (tensor->defined()) tensors.push_back(tensor->clone());
      }
    }
  }
  return tensors;
}

inline void expect_same(const Captured& by_op, const Captured& captured) {
  EXPECT_TRUE(same_bits(by_op.losses, captured.losses));
  EXPECT_TRUE(same_bits(state_of(*by_op.net), state_of(*captured.net)));
  EXPECT_EQ(by_op.scaler->state(), captured.scaler->state());
  const auto a = by_op.scaler->overflows(), b = captured.scaler->overflows();
  EXPECT_EQ(a.updates, b.updates);
  EXPECT_EQ(a.overflows, b.overflows);
  EXPECT_EQ(a.skipped_steps, b.skipped_steps);
  EXPECT_EQ(a.last, b.last);
  EXPECT_TRUE(same_bits(state_of(*by_op.optimizer), state_of(*captured.optimizer)));
}

/// Trainings with the capture and without, on each device.
class CaptureStepTest : public DeviceTest {
 protected:
  void SetUp() override {
    DeviceTest::SetUp();
    torch::manual_seed(5);
  }
  template <class Optimizer, class Options>
  Captured training(Options options, bool capture = true) const {
    return Captured::with<Optimizer>(device(), std::move(options), capture);
  }
  torch::Tensor random(c10::ScalarType dtype = torch::kFloat) const {
    return torch::randn({8, 12}).to(device(), dtype);
  }
  GradScalerOptions scaling() const { return GradScalerOptions(GetParam()); }
  /// How often the CPU captured; a GPU does not tell.
  void expect_captures(int count) const {
    if (GetParam() != c10::kCPU) return;
    EXPECT_EQ(captures_.cpu.captures, count);
  }

  /// Twelve steps with and without a capture, with overflows before it, in its first launch and
  /// two in a row later.
  template <class Optimizer, class Options>
  void expect_same_training(const Options& options) {
    auto by_op = training<Optimizer>(options, false);
    auto captured = training<Optimizer>(options);
    const std::vector<int> overflows{1, 4, 7, 8};
    by_op.run(12, overflows);
    captured.run(12, overflows);
    EXPECT_EQ(by_op.step->captured_steps(), 0);
    EXPECT_EQ(captured.step->captured_steps(), 8);
    EXPECT_EQ(captured.step->why_step_not_captured(), "");
    EXPECT_EQ(captured.scaler->overflows().overflows, 4);
    expect_same(by_op, captured);
  }

 private:
  CpuCaptures captures_;
};

}  // namespace halfstep::testing
