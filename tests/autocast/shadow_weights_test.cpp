#include "halfstep/autocast/shadow_weights.h"

#include "halfstep/autocast/autocast.h"
#include "halfstep/core/error.h"
#include "halfstep/nn/linear.h"

#include <thread>

#include <torch/torch.h>

#include "tests/autocast/cast_counter.h"
#include "tests/support/devices.h"
#include "tests/support/errors.h"
#include "tests/support/tolerance.h"

namespace halfstep {
namespace {

using testing::CastCounter;
using testing::expect_same_bits;

/// Convolution, torch's Linear in two and three dimensions (a transposed view), at::linear, and one
/// weight used twice.
struct Net : torch::nn::Module {
  Net() {
    register_module("conv", conv);
    register_module("flat", flat);
    register_module("twice", twice);
    register_module("square", square);
    register_module("last", last);
  }
  torch::Tensor forward(const torch::Tensor& x) {
    auto y = torch::relu(conv(x)).flatten(1);
    y = torch::relu(flat(y));
    y = twice(torch::relu(twice(y)).unsqueeze(1)).squeeze(1);
    y = torch::relu(square(torch::relu(square(y))));
    return last(y);
  }
  torch::nn::Conv2d conv{torch::nn::Conv2dOptions(1, 4, 3)};
  torch::nn::Linear flat{torch::nn::LinearOptions(4 * 6 * 6, 12)};
  torch::nn::Linear twice{torch::nn::LinearOptions(12, 12)};
  nn::Linear square{torch::nn::LinearOptions(12, 12)};
  nn::Linear last{torch::nn::LinearOptions(12, 5)};
};

class ShadowWeightsTest : public testing::DeviceTest {
 protected:
  void SetUp() override {
    testing::DeviceTest::SetUp();
    if (IsSkipped()) return;
    torch::manual_seed(1);
    x = torch::randn({8, 6}, device());
    weight = torch::randn({3, 6}, device()).requires_grad_();
  }
  AutocastOptions bfloat16() const { return AutocastOptions(GetParam()).dtype(torch::kBFloat16); }
  /// Whether at::linear in a region took the copy.
  bool taken(const AutocastOptions& options) {
    const auto before = ShadowWeights::uses();
    const Autocast autocast(options);
    at::linear(x, weight);
    return ShadowWeights::uses() > before;
  }

  /// Parameters after five steps.
  std::vector<torch::Tensor> train(bool shadowed, c10::ScalarType dtype) {
    torch::manual_seed(2);
    Net net;
    net.to(device());
    const auto data = torch::randn({16, 1, 8, 8}, device());
    const auto target = torch::randint(5, {16}, torch::dtype(torch::kLong).device(device()));
    torch::optim::SGD optimizer(net.parameters(), torch::optim::SGDOptions(0.1).momentum(0.9));
    std::optional<ShadowWeights> shadows;
    if (shadowed) shadows.emplace(net.parameters(), dtype);
    for (int step = 0; step < 5; ++step) {
      optimizer.zero_grad();
      torch::Tensor loss;
      {
        const Autocast autocast(AutocastOptions(GetParam()).dtype(dtype).policy(policy));
        loss = torch::nn::functional::cross_entropy(net.forward(data), target);
      }
      loss.backward();
      optimizer.step();
      if (shadows) shadows->refresh();
    }
    return net.parameters();
  }

  torch::Tensor x;
  torch::Tensor weight;
  std::optional<OpPolicy> policy;
};
HALFSTEP_ON_EACH_DEVICE(ShadowWeightsTest);

}  // namespace

TEST_P(ShadowWeightsTest, TrainsToTheBitsOfStockAutocast) {
  for (const auto dtype : {torch::kBFloat16, torch::kHalf}) {
    const auto stock = train(false, dtype);
    const auto before = ShadowWeights::uses();
    const auto shadowed = train(true, dtype);
    // In each of five steps ten weights and biases, two layers twice; the bias of a Linear in
    // three dimensions is added in place, which autocast leaves alone.
    EXPECT_EQ(ShadowWeights::uses() - before, 5 * 13);
    for (size_t i = 0; i < stock.size(); ++i) {
      expect_same_bits(shadowed[i], stock[i]);
      EXPECT_EQ(shadowed[i].grad().scalar_type(), torch::kFloat);
      EXPECT_GT(shadowed[i].grad().abs().sum().item<float>(), 0);
    }
  }
}

TEST_P(ShadowWeightsTest, NoWeightIsCast) {
  const ShadowWeights shadows({weight}, torch::kBFloat16);
  const CastCounter casts(weight);
  const Autocast autocast(bfloat16());
  for (int use = 0; use < 3; ++use)
    EXPECT_EQ(at::linear(x, weight).scalar_type(), torch::kBFloat16);
  EXPECT_EQ(casts.count(), 0);
}

TEST_P(ShadowWeightsTest, AreTakenWhereTheyFitOnly) {
  EXPECT_FALSE(taken(bfloat16()));
  const ShadowWeights shadows({weight}, torch::kBFloat16);
  EXPECT_TRUE(taken(bfloat16()));
  EXPECT_FALSE(taken(bfloat16().dtype(torch::kHalf)));
  EXPECT_FALSE(taken(bfloat16().enabled(false)));
  const auto before = ShadowWeights::uses();
  {
    const Autocast autocast(bfloat16());
    // Another part of the weight than all of it or its transpose.
    at::linear(x, weight.slice(0, 0, 2));
    at::mm(x, weight.t().slice(1, 0, 2));
  }
  EXPECT_EQ(ShadowWeights::uses(), before);
  {
    const Autocast autocast(bfloat16());
    at::mm(x, weight.t());
  }
  EXPECT_EQ(ShadowWeights::uses(), before + 1);
}

TEST_P(ShadowWeightsTest, StandInInRegionsWithAPolicy) {
  const ShadowWeights shadows({weight}, torch::kBFloat16);
  auto list = OpPolicy::torch(GetParam());
  const CastCounter casts(weight);
  EXPECT_TRUE(taken(bfloat16().policy(list)));
  {
    const auto before = ShadowWeights::uses();
    const Autocast autocast(bfloat16().policy(list));
    at::mm(x, weight.t());
    EXPECT_EQ(ShadowWeights::uses(), before + 1);
  }
  EXPECT_EQ(casts.count(), 0);
  // What the policy runs in float32 takes the weight itself.
  EXPECT_FALSE(taken(bfloat16().policy(list.set("linear", CastRule::float32))));
  EXPECT_TRUE(taken(bfloat16())) << "after the region";
}

TEST_P(ShadowWeightsTest, TrainToTheBitsOfStockAutocastUnderAPolicy) {
  const auto stock = train(false, torch::kBFloat16);
  const auto before = ShadowWeights::uses();
  policy = OpPolicy::torch(GetParam());
  const auto shadowed = train(true, torch::kBFloat16);
  EXPECT_EQ(ShadowWeights::uses() - before, 5 * 13);
  for (size_t i = 0; i < stock.size(); ++i) expect_same_bits(shadowed[i], stock[i]);
  const auto cached = train(false, torch::kBFloat16);
  for (size_t i = 0; i < stock.size(); ++i) expect_same_bits(cached[i], stock[i]);
}

// A view made without gradients passes none on to its weight.
TEST_P(ShadowWeightsTest, TakeNoGradientOfAViewMadeWithoutGradients) {
  const ShadowWeights shadows({weight}, torch::kBFloat16);
  torch::Tensor view;
  {
    const torch::NoGradGuard no_grad;
    view = weight.t();
  }
  for (const auto& list : {std::optional<OpPolicy>(), std::optional(OpPolicy::torch(GetParam()))}) {
    torch::Tensor loss;
    {
      const Autocast autocast(bfloat16().policy(list));
      loss = at::mm(x, view).sum();
    }
    loss.backward();
    EXPECT_FALSE(weight.grad().defined());
  }
}

TEST_P(ShadowWeightsTest, EndWithTheirObject) {
  {
    const ShadowWeights shadows({weight}, torch::kBFloat16);
    EXPECT_TRUE(taken(bfloat16()));
  }
  EXPECT_FALSE(taken(bfloat16()));
  const ShadowWeights again({weight}, torch::kHalf);
  EXPECT_TRUE(taken(bfloat16().dtype(torch::kHalf)));
}

TEST_P(ShadowWeightsTest, AChangedWeightIsSeen) {
  const auto run = [&] {
    const Autocast autocast(bfloat16());
    return at::linear(x, weight);
  };
  ShadowWeights shadows({weight}, torch::kBFloat16);
  const auto first = run();
  {
    const torch::NoGradGuard no_grad;
    weight.mul_(2);
  }
  EXPECT_FALSE(taken(bfloat16())) << "written from the weight as it was";
  expect_same_bits(run(), first * 2);
  shadows.refresh();
  EXPECT_TRUE(taken(bfloat16()));
  expect_same_bits(run(), first * 2);
  weight.set_data(weight.detach() * 2);
  EXPECT_FALSE(taken(bfloat16())) << "other memory";
  expect_same_bits(run(), first * 4);
}

TEST_P(ShadowWeightsTest, AWriteBetweenForwardAndBackwardThrows) {
  ShadowWeights shadows({weight}, torch::kBFloat16);
  x.requires_grad_();
  torch::Tensor loss;
  {
    const Autocast autocast(bfloat16());
    loss = at::linear(x, weight).sum();
  }
  shadows.refresh();
  EXPECT_THROW(loss.backward(), c10::Error);
}

TEST_P(ShadowWeightsTest, WorkWithoutGradients) {
  const ShadowWeights shadows({weight}, torch::kBFloat16);
  const auto expected = at::linear(x.to(torch::kBFloat16), weight.detach().to(torch::kBFloat16));
  const auto before = ShadowWeights::uses();
  {
    const torch::NoGradGuard no_grad;
    const Autocast autocast(bfloat16());
    expect_same_bits(at::linear(x, weight), expected);
    expect_same_bits(at::mm(x, weight.t()), expected);
    EXPECT_FALSE(at::linear(x, weight).requires_grad());
  }
  {
    const c10::InferenceMode inference;
    const Autocast autocast(bfloat16());
    expect_same_bits(at::linear(x, weight), expected);
  }
  EXPECT_EQ(ShadowWeights::uses(), before + 4);
  // And with them again.
  const Autocast autocast(bfloat16());
  EXPECT_TRUE(at::linear(x, weight).requires_grad());
}

TEST_P(ShadowWeightsTest, DifferentiateTwice) {
  const auto gradient_of_norm = [&] {
    torch::Tensor loss;
    {
      const Autocast autocast(bfloat16());
      loss = at::linear(x, weight).to(torch::kFloat).square().sum();
    }
    const auto gradient = torch::autograd::grad({loss}, {weight}, {}, true, true)[0];
    gradient.square().sum().backward();
    auto result = weight.grad().clone();
    weight.mutable_grad() = torch::Tensor();
    return result;
  };
  const auto expected = gradient_of_norm();
  EXPECT_GT(expected.abs().sum().item<float>(), 0);
  const ShadowWeights shadows({weight}, torch::kBFloat16);
  expect_same_bits(gradient_of_norm(), expected);
}

TEST_P(ShadowWeightsTest, AddTheGradientsOfTwoRegionsInFloat32) {
  const auto gradient = [&] {
    torch::Tensor loss;
    for (int region = 0; region < 2; ++region) {
      const Autocast autocast(bfloat16());
      const auto part = at::linear(x * (region + 0.3), weight).to(torch::kFloat).square().sum();
      loss = loss.defined() ? loss + part : part;
    }
    loss.backward();
    auto result = weight.grad().clone();
    weight.mutable_grad() = torch::Tensor();
    return result;
  };
  const auto expected = gradient();
  EXPECT_FALSE(expected.equal(expected.to(torch::kBFloat16).to(torch::kFloat)));
  const ShadowWeights shadows({weight}, torch::kBFloat16);
  expect_same_bits(gradient(), expected);
}

TEST_P(ShadowWeightsTest, ServeSeveralThreadsAtOnce) {
  const ShadowWeights shadows({weight}, torch::kBFloat16);
  const auto expected = at::linear(x.to(torch::kBFloat16), weight.detach().to(torch::kBFloat16));
  std::vector<std::thread> threads;
  std::atomic<int> right = 0;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int use = 0; use < 50; ++use) {
        const Autocast autocast(bfloat16());
        if (at::linear(x, weight).equal(expected)) ++right;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(right, 200);
}

TEST_P(ShadowWeightsTest, RefuseWhatTheyCannotShadow) {
  const auto make = [](std::vector<torch::Tensor> parameters, c10::ScalarType dtype) {
    ShadowWeights(std::move(parameters), dtype);
  };
  EXPECT_ERROR(make({weight}, torch::kFloat), UsageError,
               "[ShadowWeights] dtype must be float16 or bfloat16, but got float32");
  EXPECT_ERROR(make({weight.detach()}, torch::kHalf), UsageError,
               "parameters must be float32 leaves that require a gradient");
  EXPECT_ERROR(make({weight * 2}, torch::kHalf), UsageError, "must be float32 leaves");
  EXPECT_ERROR(make({weight.detach().to(torch::kHalf).requires_grad_()}, torch::kHalf), UsageError,
               "must be float32 leaves");
  EXPECT_ERROR(make({torch::Tensor()}, torch::kHalf), UsageError, "an undefined tensor");
  EXPECT_ERROR(make({weight, weight}, torch::kHalf), UsageError,
               "a parameter must have one copy, but parameter 1 has one already");
  const ShadowWeights first({weight}, torch::kBFloat16);
  EXPECT_ERROR(make({weight}, torch::kBFloat16), UsageError, "parameter 0 has one already");
}

}  // namespace halfstep
