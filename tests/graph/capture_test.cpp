// When a replay is captured and launched as one, and why not: decided here, over a device that only
// pretends to capture. Real ones are in cuda_graph_test.cpp.
#include "halfstep/graph/capture/capturable.h"
#include "halfstep/graph/capture/captured_replay.h"
#include "halfstep/optim.h"
#include "halfstep/scaling.h"

#include <sstream>

#include <ATen/CPUGeneratorImpl.h>

#include "tests/graph/capture_on_cpu.h"
#include "tests/graph/recorded.h"
#include "tests/graph/step_test.h"
#include "tests/support/errors.h"
#include <gtest/gtest.h>

namespace {

using halfstep::detail::why_not_captured;
using halfstep::testing::ConvNet;
using halfstep::testing::Mlp;
using halfstep::testing::recorded;
using halfstep::testing::same_bits;
using halfstep::testing::state_of;
using halfstep::testing::Step;
using halfstep::testing::Tensors;
using torch::Tensor;

class GraphCapture : public ::testing::Test {
 protected:
  GraphCapture() { torch::manual_seed(5); }

  /// Until the next call is launched: recorded twice, warmed up twice.
  static void warm_up(Step& step, const Tensor& x) {
    for (int i = 0; i < 4; ++i) step(x);
    ASSERT_EQ(step.replayed_steps(), 2);
    ASSERT_EQ(step.captured_steps(), 0);
  }

 private:
  halfstep::testing::CpuCaptures captures_;

 protected:
  halfstep::testing::CapturingCpu& device = captures_.cpu;
};

TEST_F(GraphCapture, WarmsUpThenCapturesAndLaunches) {
  const auto w = torch::randn({4});
  Step step([&](const Tensor& x) { return x * w; });
  step.add_tensor("w", w);
  for (int i = 0; i < 8; ++i) {
    const auto x = torch::randn({4});
    const auto y = step(x);
    EXPECT_TRUE(same_bits({x * w}, {y})) << i;
    EXPECT_EQ(step.why_not_captured(), i == 2 || i == 3 ? "it warms up" : "") << i;
    w.mul_(1.5);  // is read anew
  }
  EXPECT_EQ(device.warm_ups, 2);
  EXPECT_EQ(device.captures, 1);
  EXPECT_EQ(device.launches, 4);
  EXPECT_EQ(step.recorded_steps(), 2);
  EXPECT_EQ(step.replayed_steps(), 6);
  EXPECT_EQ(step.captured_steps(), 4);
}

TEST_F(GraphCapture, OutputsAreCopies) {
  Step step([](const Tensor& x) { return x * 2; });
  const auto a = torch::randn({4}), b = torch::randn({4});
  warm_up(step, a);
  const auto of_a = step(a), of_b = step(b);
  EXPECT_TRUE(same_bits({a * 2, b * 2}, {of_a, of_b}));
  EXPECT_EQ(step.captured_steps(), 2);
}

struct CaptureRun {
  std::vector<Tensor> state;
  int64_t captured;
};

CaptureRun capture_run(bool capture, int64_t parts) {
  torch::manual_seed(2);
  ConvNet net(0.3);
  halfstep::optim::Adam adam(net->parameters(), halfstep::optim::AdamOptions(1e-2));
  halfstep::GradScaler scaler(halfstep::GradScalerOptions(c10::kCPU).init_scale(256));
  Step step(net, [net](const Tensor& x) mutable {
    const auto loss = net->forward(x).square().mean();
    loss.backward();
    return loss;
  });
  step.config().enable_amp().set_gradient_accumulation_steps(parts);
  step.config().enable_pass("cuda_graph", capture);
  step.add_optimizer(adam);
  step.set_grad_scaler(scaler);
  for (int i = 0; i < 8; ++i) step(torch::randn({4, 1, 8, 8}));
  return {state_of(*net), step.captured_steps()};
}

TEST_F(GraphCapture, TrainingHasTheSameBits) {
  for (const int64_t parts : {1, 2}) {
    const auto captured = capture_run(true, parts), by_op = capture_run(false, parts);
    EXPECT_TRUE(same_bits(by_op.state, captured.state)) << parts;
    EXPECT_EQ(by_op.captured, 0);
    // Of 16 parts 2 are recorded, 2 warm up, and one finds gradients of the part before it.
    EXPECT_EQ(captured.captured, parts == 1 ? 4 : 11);
  }
}

TEST_F(GraphCapture, EachShapeHasItsOwn) {
  Step step([](const Tensor& x) { return x.exp(); });
  const auto small = torch::randn({3}), large = torch::randn({7});
  for (int i = 0; i < 6; ++i) {
    EXPECT_TRUE(same_bits({small.exp()}, {step(small)}));
    EXPECT_TRUE(same_bits({large.exp()}, {step(large)}));
  }
  EXPECT_EQ(device.made, 2);
  EXPECT_EQ(device.captures, 2);
  EXPECT_EQ(step.captured_steps(), 4);
  step.forget_recordings();
  for (int i = 0; i < 6; ++i) EXPECT_TRUE(same_bits({small.exp()}, {step(small)}));
  EXPECT_EQ(device.made, 3);
  EXPECT_EQ(step.captured_steps(), 6);
}

TEST_F(GraphCapture, WhatTheDeviceRefusesGoesOpByOpFromThenOn) {
  device.refuses = "operation not permitted when stream is capturing\nand a backtrace";
  Step step([](const Tensor& x) { return x * 3; });
  std::ostringstream log;
  step.debug(1, log);
  const auto x = torch::randn({4});
  for (int i = 0; i < 7; ++i) EXPECT_TRUE(same_bits({x * 3}, {step(x)}));
  EXPECT_EQ(step.why_not_captured(),
            "it was refused: operation not permitted when stream is capturing");
  EXPECT_EQ(step.captured_steps(), 0);
  EXPECT_THAT(log.str(), ::testing::HasSubstr("[Graph] cuda_graph: op by op, for it warms up\n"));
  EXPECT_THAT(log.str(), ::testing::HasSubstr("op by op, for it was refused: operation not"));
  device.refuses.clear();
  step(x);
  EXPECT_EQ(device.captures, 0);
}

TEST_F(GraphCapture, ABusyStreamIsWaitedFor) {
  Step step([](const Tensor& x) { return x * 3; });
  const auto x = torch::randn({4});
  warm_up(step, x);
  device.busy = "the current stream is being captured";
  EXPECT_TRUE(same_bits({x * 3}, {step(x)}));
  EXPECT_EQ(step.why_not_captured(), "the current stream is being captured");
  device.busy.clear();
  EXPECT_TRUE(same_bits({x * 3}, {step(x)}));
  EXPECT_EQ(step.why_not_captured(), "");
  EXPECT_EQ(device.launches, 1);
}

TEST_F(GraphCapture, GradientsThatAreHeldAreNotWrittenOver) {
  Mlp net;
  Step step(net, [net](const Tensor& x) mutable {
    const auto loss = net->forward(x).sum();
    loss.backward();
    return loss;
  });
  const auto x = torch::randn({8, 12});
  warm_up(step, x);
  net->zero_grad();
  step(x);
  EXPECT_EQ(step.why_not_captured(), "");
  const auto once = net->first->weight.grad().clone();
  step(x);  // adds
  EXPECT_EQ(step.why_not_captured(), "gradients of an earlier step are still held");
  EXPECT_TRUE(same_bits({once + once}, {net->first->weight.grad()}));
  net->zero_grad();
  step(x);
  const auto kept = net->first->weight.grad();
  step(x);
  EXPECT_EQ(step.why_not_captured(), "");  // copies are given out from then on
  EXPECT_TRUE(same_bits({once + once}, {net->first->weight.grad()}));
  EXPECT_EQ(kept.unsafeGetTensorImpl(), net->first->weight.grad().unsafeGetTensorImpl());
  EXPECT_EQ(device.captures, 2);
}

TEST_F(GraphCapture, OtherMemoryInATensorIsCapturedAnew) {
  Mlp net;
  const Step::Function function = [net](const Tensor& x) mutable { return net->forward(x); };
  Step step(net, function);
  const auto x = torch::randn({8, 12});
  warm_up(step, x);
  for (int round = 0; round < 2; ++round) {
    step(x);
    EXPECT_EQ(step.why_not_captured(), "");
    net->second->weight.set_data(torch::randn({4, 16}));
    int by_op = 0;
    for (; by_op < 20; ++by_op) {
      EXPECT_TRUE(same_bits({function(x).detach()}, {step(x)}));
      if (step.why_not_captured().empty()) break;
      EXPECT_EQ(step.why_not_captured(),
                by_op == 0 ? "net.second.weight has other memory" : "it warms up");
    }
    EXPECT_EQ(by_op, round == 0 ? 4 : 8);
  }
  EXPECT_EQ(device.captures, 3);
  EXPECT_EQ(step.recorded_steps(), 2);
}

TEST_F(GraphCapture, WhatALaunchWritesGetsAVersion) {
  const auto sum = torch::zeros({4});
  Step step([&](const Tensor& x) {
    sum.add_(x);
    return x * 2;
  });
  step.add_tensor("sum", sum);
  const auto x = torch::ones({4});
  warm_up(step, x);
  const auto version = sum._version();
  step(x);
  EXPECT_EQ(step.captured_steps(), 1);
  EXPECT_GT(sum._version(), version);
  EXPECT_TRUE(same_bits({x * 5}, {sum}));
}

TEST_F(GraphCapture, GeneratorsOfTheUsersAreNamed) {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(7);
  Step step(
      [&](const Tensor& x) { return at::bernoulli(x, generator) + at::bernoulli(x, generator); });
  const auto x = torch::full({64}, 0.5);
  warm_up(step, x);
  const auto a = step(x), b = step(x);
  EXPECT_EQ(device.generators, 1);
  EXPECT_FALSE(at::equal(a, b));
}

TEST_F(GraphCapture, CheckedModeChecksLaunches) {
  int calls = 0;
  Step step([&](const Tensor& x) { return ++calls < 8 ? x * 2 : x * 3; });
  step.config().check_replays();
  const auto x = torch::randn({4});
  for (int i = 0; i < 7; ++i) step(x);
  EXPECT_EQ(step.captured_steps(), 3);
  EXPECT_ERROR(step(x), halfstep::UsageError, "a replay must have the bits of an eager run");
}

TEST_F(GraphCapture, SaysWhatSpeaksAgainstAProgram) {
  const auto x = torch::randn({4}), w = torch::randn({4});
  const auto why = [&](const std::function<Tensors(const Tensors&)>& function,
                       const Tensor& input) {
    return why_not_captured(recorded(function, {input}, {{"w", w}}), c10::kCPU);
  };
  EXPECT_EQ(why([&](const Tensors& in) { return Tensors{in[0] * w}; }, x), "");
  EXPECT_EQ(why([](const Tensors&) { return Tensors{}; }, x), "there is nothing to compute");
  EXPECT_EQ(why([](const Tensors& in) { return Tensors{in[0].mul_(2) + 1}; }, x),
            "input 0 is changed in place");
  EXPECT_EQ(why([](const Tensors& in) { return Tensors{in[0] * 2}; }, x[0].expand({3})),
            "elements of input 0 share memory");
  EXPECT_EQ(why(
                [](const Tensors& in) {
                  return Tensors{in[0] * 2, in[0].view({2, 2})};
                },
                x),
            "output 1 lies in the memory of an input, parameter or buffer");
  EXPECT_EQ(why(
                [&](const Tensors& in) {
                  return Tensors{in[0] * 2, w.detach()};
                },
                x),
            "output 1 lies in the memory of an input, parameter or buffer");
  EXPECT_EQ(
      why([](const Tensors& in) { return Tensors{at::as_strided(in[0], {2}, {2}, 0) * 2}; }, x),
      "build uses as_strided on an input");
}

TEST_F(GraphCapture, WhatLiesOrRunsOnTheHostSpeaksAgainstIt) {
  const c10::Device gpu(c10::kCUDA, 0);
  const auto x = torch::randn({4}), w = torch::randn({4});
  // As it were recorded on a GPU, but for the values that `on_host` names.
  const auto why = [&](const std::function<Tensors(const Tensors&)>& function,
                       const std::function<bool(const halfstep::detail::Value&)>& on_host) {
    auto program = recorded(function, {x}, {{"w", w}});
    for (auto& value : program.values) {
      if (!on_host(value)) value.geometry.device = gpu;
    }
    return why_not_captured(program, gpu);
  };
  const auto product = [&](const Tensors& in) { return Tensors{in[0] * w}; };
  using halfstep::detail::Value;
  using halfstep::detail::ValueKind;
  EXPECT_EQ(why(product, [](const Value&) { return false; }), "");
  EXPECT_EQ(why(product, [](const Value& v) { return v.name == "input 0"; }),
            "input 0 lies on cpu, not on cuda:0");
  EXPECT_EQ(why(product, [](const Value& v) { return v.name == "w"; }),
            "w lies on cpu, not on cuda:0");
  // A number that LibTorch makes a tensor of lies on the host, and may.
  const auto with_number = [](const Tensors& in) { return Tensors{in[0].sub(2.5)}; };
  EXPECT_EQ(why(with_number, [](const Value& v) { return v.kind == ValueKind::constant; }), "");
  // A random scalar of the host's would be captured as it is.
  const auto random = [](const Tensors& in) { return Tensors{in[0] * torch::rand({})}; };
  EXPECT_EQ(
      why(random,
          [](const Value& v) { return v.kind == ValueKind::computed && v.geometry.sizes.empty(); }),
      "rand does not run on cuda:0");
}

}  // namespace
