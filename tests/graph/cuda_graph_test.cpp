// Replays as CUDA graphs, on a GPU.
#include "halfstep/graph.h"
#include "halfstep/optim.h"
#include "halfstep/scaling.h"

#include <array>
#include <chrono>
#include <iostream>
#include <limits>
#include <string>

#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/cuda.h>

#include "tests/graph/step_test.h"
#include "tests/support/errors.h"
#include <gtest/gtest.h>

namespace {

namespace F = torch::nn::functional;
using halfstep::testing::ConvNet;
using halfstep::testing::Mlp;
using halfstep::testing::same_bits;
using halfstep::testing::state_of;
using halfstep::testing::Step;
using torch::Tensor;

template <class Net>
struct CudaTrain : halfstep::Graph<Tensor(Tensor, Tensor)> {
  explicit CudaTrain(Net its_net) : net(register_module("net", its_net)) {}
  Tensor build(const Tensor& x, const Tensor& y) override {
    const auto loss = F::cross_entropy(net->forward(x), y);
    loss.backward();
    return loss;
  }
  Net net;
};

class CudaGraph : public ::testing::Test {
 protected:
  void SetUp() override {
    HALFSTEP_REQUIRE_CUDA(1);
    torch::manual_seed(5);
  }
  static Tensor random(at::IntArrayRef sizes) { return torch::randn(sizes, torch::kCUDA); }
  static Tensor classes(int64_t n) {
    return torch::randint(4, {n}, at::TensorOptions(torch::kCUDA).dtype(torch::kLong));
  }
};

struct CudaRun {
  std::vector<Tensor> losses, state;
  int64_t captured;
  std::string why_not;
  double scale;
};

template <class Net>
CudaRun train(at::IntArrayRef sizes, bool capture, int64_t parts, c10::ScalarType dtype) {
  torch::manual_seed(2);
  Net net;
  net->to(torch::kCUDA);
  halfstep::optim::Adam adam(net->parameters(),
                             halfstep::optim::AdamOptions(1e-2).clip_norm(1).shadow_weights(dtype));
  halfstep::GradScaler scaler(halfstep::GradScalerOptions(c10::kCUDA).growth_interval(3));
  CudaTrain<Net> step(net);
  step.config().enable_amp(true, dtype).set_gradient_accumulation_steps(parts);
  step.config().enable_pass("cuda_graph", capture);
  step.add_optimizer(adam);
  step.set_grad_scaler(scaler);
  CudaRun trained;
  for (int i = 0; i < 10; ++i) {
    const auto x = torch::randn(sizes, torch::kCUDA);
    const auto y =
        torch::randint(4, {sizes[0]}, at::TensorOptions(torch::kCUDA).dtype(torch::kLong));
    trained.losses.push_back(step(x, y));
  }
  trained.state = state_of(*net);
  trained.captured = step.captured_steps();
  trained.why_not = step.why_not_captured();
  trained.scale = scaler.get_scale();
  return trained;
}

template <class Net>
void expect_same_training(at::IntArrayRef sizes) {
  for (const auto dtype : {torch::kBFloat16, torch::kHalf}) {
    for (const int64_t parts : {1, 2}) {
      const auto captured = train<Net>(sizes, true, parts, dtype);
      const auto by_op = train<Net>(sizes, false, parts, dtype);
      EXPECT_TRUE(same_bits(by_op.losses, captured.losses)) << dtype << ' ' << parts;
      EXPECT_TRUE(same_bits(by_op.state, captured.state)) << dtype << ' ' << parts;
      EXPECT_EQ(by_op.scale, captured.scale);
      EXPECT_EQ(by_op.captured, 0);
      EXPECT_EQ(captured.captured, parts == 1 ? 6 : 15) << captured.why_not;
    }
  }
}

TEST_F(CudaGraph, AnMlpTrainsToTheSameBits) {
  expect_same_training<Mlp>({16, 12});
}

TEST_F(CudaGraph, BatchNormAndDropoutTrainToTheSameBits) {
  expect_same_training<ConvNet>({16, 1, 8, 8});
}

/// Twelve steps with an overflow before the capture, in the first launch and later.
template <class Optimizer, class Options>
CudaRun train_whole_step(Options options, bool capture) {
  torch::manual_seed(7);
  Mlp net;
  net->to(torch::kCUDA);
  Optimizer optimizer(net->parameters(), options.capturable());
  halfstep::optim::LRScheduler schedule(optimizer, halfstep::optim::step_lr(2, 0.5));
  halfstep::GradScaler scaler(halfstep::GradScalerOptions().init_scale(256).growth_interval(3));
  CudaTrain<Mlp> step(net);
  step.config().enable_amp(true, torch::kHalf).enable_pass("cuda_graph", capture);
  step.add_optimizer(optimizer, schedule);
  step.set_grad_scaler(scaler);
  CudaRun trained;
  for (const int i : {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}) {
    auto x = torch::randn({16, 12}, torch::kCUDA);
    const auto y = torch::randint(4, {16}, at::TensorOptions(torch::kCUDA).dtype(torch::kLong));
    if (i == 1 || i == 4 || i == 8) x.fill_(std::numeric_limits<float>::infinity());
    trained.losses.push_back(step(x, y).nan_to_num());
    EXPECT_EQ(step.why_step_not_captured(), "") << i;
  }
  trained.state = state_of(*net);
  trained.captured = step.captured_steps();
  trained.why_not = step.why_not_captured();
  trained.scale = scaler.get_scale();
  EXPECT_EQ(schedule.steps(), 9);
  EXPECT_EQ(scaler.overflows().skipped_steps, 3);
  EXPECT_EQ(scaler.overflows().updates, 12);
  return trained;
}

template <class Optimizer, class Options>
void expect_same_whole_step(const Options& options) {
  const auto captured = train_whole_step<Optimizer>(options, true);
  const auto by_op = train_whole_step<Optimizer>(options, false);
  EXPECT_TRUE(same_bits(by_op.losses, captured.losses));
  EXPECT_TRUE(same_bits(by_op.state, captured.state));
  EXPECT_EQ(by_op.scale, captured.scale);
  EXPECT_EQ(captured.captured, 8) << captured.why_not;
}

TEST_F(CudaGraph, TheWholeStepIsCaptured) {
  using namespace halfstep::optim;
  expect_same_whole_step<Adam>(AdamOptions(1e-2));
  expect_same_whole_step<Adam>(AdamOptions(1e-2).amsgrad(true).clip_norm(0.1));
  expect_same_whole_step<AdamW>(AdamWOptions(1e-2).shadow_weights(torch::kHalf));
  expect_same_whole_step<SGD>(SGDOptions(1e-2).momentum(0.9).nesterov(true));
  expect_same_whole_step<SGD>(SGDOptions(1e-2).clip_value(1e-3));
  expect_same_whole_step<Adagrad>(AdagradOptions(1e-2).lr_decay(0.1));
}

TEST_F(CudaGraph, DropoutIsReproducibleAndSharesItsGenerator) {
  const auto function = [](const Tensor& x) { return torch::dropout(x, 0.5, true); };
  Step step(function);
  const auto x = torch::ones({256}, torch::kCUDA);
  for (int i = 0; i < 5; ++i) step(x);
  ASSERT_EQ(step.why_not_captured(), "");
  EXPECT_FALSE(at::equal(step(x), step(x)));
  torch::manual_seed(9);
  const auto first = function(x), second = function(x), third = function(x);
  torch::manual_seed(9);
  EXPECT_TRUE(same_bits({first}, {step(x)}));
  EXPECT_TRUE(same_bits({second}, {function(x)}));  // eager code goes on where the graph ended
  EXPECT_TRUE(same_bits({third}, {step(x)}));
}

TEST_F(CudaGraph, ACopyToTheHostIsRefusedAndLeavesTheGeneratorUsable) {
  Step step([](const Tensor& x) { return torch::dropout(x.cpu().to(x.device()), 0.5, true); });
  const auto x = torch::ones({256}, torch::kCUDA);
  for (int i = 0; i < 6; ++i) step(x);
  EXPECT_EQ(step.captured_steps(), 0);
  EXPECT_THAT(step.why_not_captured(), ::testing::HasSubstr("it was refused: "));
  torch::manual_seed(9);
  const auto expected = torch::dropout(x, 0.5, true);
  torch::manual_seed(9);
  EXPECT_TRUE(same_bits({expected}, {step(x)}));
  // Others are captured as ever.
  Step other([](const Tensor& y) { return torch::dropout(y, 0.5, true); });
  for (int i = 0; i < 6; ++i) other(x);
  EXPECT_EQ(other.why_not_captured(), "");
  EXPECT_EQ(other.captured_steps(), 2);
}

TEST_F(CudaGraph, InputsOnTheHostAreSaid) {
  Step step([](const Tensor& x) { return x.to(torch::kCUDA) * 2; });
  const auto x = torch::randn({3});
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(same_bits({x.cuda() * 2}, {step(x)}));
  EXPECT_EQ(step.why_not_captured(), "input 0 lies on cpu, not on cuda:0");
}

TEST_F(CudaGraph, GradientsOfAnEarlierStepStay) {
  Mlp net;
  net->to(torch::kCUDA);
  Step step(net, [net](const Tensor& x) mutable {
    const auto loss = net->forward(x).sum();
    loss.backward();
    return loss;
  });
  const auto x = random({8, 12});
  for (int i = 0; i < 5; ++i) {
    net->zero_grad();
    step(x);
  }
  ASSERT_EQ(step.why_not_captured(), "");
  const auto once = net->first->weight.grad().clone();
  const auto held = net->first->weight.grad();
  net->zero_grad();
  step(random({8, 12}));
  EXPECT_TRUE(same_bits({once}, {held}));
}

TEST_F(CudaGraph, ALaunchFromAnotherStreamWaitsForTheOneBefore) {
  HALFSTEP_REQUIRE_TRUE_CUDA("streams that run side by side");
  Step step([](const Tensor& x) {
    auto y = x;
    for (int i = 0; i < 20; ++i) y = torch::mm(y, y) / 512;
    return y;
  });
  const auto a = random({512, 512}), b = random({512, 512});
  std::vector<Tensor> expected;
  for (int i = 0; i < 5; ++i) step(a);
  ASSERT_EQ(step.why_not_captured(), "");
  const auto of_a = step(a).clone(), of_b = step(b).clone();
  torch::cuda::synchronize();
  const auto other = c10::impl::VirtualGuardImpl(c10::kCUDA)
                         .getStreamFromGlobalPool(a.device(), /*isHighPriority=*/false);
  for (int i = 0; i < 5; ++i) {
    const auto first = step(a);
    Tensor second;
    {
      const c10::StreamGuard guard(other);
      second = step(b);
    }
    torch::cuda::synchronize();
    EXPECT_TRUE(same_bits({of_a, of_b}, {first, second})) << i;
  }
}

TEST_F(CudaGraph, SavesTimeWhereLaunchesTakeIt) {
  HALFSTEP_REQUIRE_TRUE_CUDA("speed");
  // Many small calls are what a CUDA graph is for.
  std::array<double, 2> seconds{};
  for (const bool capture : {false, true}) {
    Mlp net;
    net->to(torch::kCUDA);
    halfstep::optim::Adam adam(net->parameters(), halfstep::optim::AdamOptions(1e-3).capturable());
    CudaTrain<Mlp> step(net);
    step.config().enable_amp(true, torch::kBFloat16).enable_pass("cuda_graph", capture);
    step.add_optimizer(adam);
    const auto x = random({64, 12}), y = classes(64);
    for (int i = 0; i < 20; ++i) step(x, y);
    torch::cuda::synchronize();
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < 200; ++i) step(x, y);
    torch::cuda::synchronize();
    seconds[size_t(capture)] =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / 200;
    EXPECT_EQ(step.captured_steps() > 0, capture) << step.why_not_captured();
  }
  std::cout << "a step op by op: " << seconds[0] * 1e6
            << " us, as a CUDA graph: " << seconds[1] * 1e6 << " us\n";
  EXPECT_LT(seconds[1], seconds[0]);
}

}  // namespace
