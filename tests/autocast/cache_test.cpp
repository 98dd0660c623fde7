#include "halfstep/autocast/autocast.h"

#include <ATen/CachedTensorUtils.h>
#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/torch.h>

#include "tests/autocast/cast_counter.h"
#include "tests/support/devices.h"
#include "tests/support/tolerance.h"

namespace halfstep {

using testing::CastCounter;
using testing::expect_same_bits;

class AutocastCache : public testing::DeviceTest {
 protected:
  void SetUp() override {
    testing::DeviceTest::SetUp();
    if (IsSkipped()) return;
    torch::manual_seed(1);
    x = torch::randn({8, 4}, device());
    weight = torch::randn({3, 4}, device()).requires_grad_();
  }

  at::Tensor x;
  at::Tensor weight;
};
HALFSTEP_ON_EACH_DEVICE(AutocastCache);

TEST_P(AutocastCache, CastsAWeightOncePerRegion) {
  for (int region = 0; region < 2; ++region) {
    const CastCounter casts(weight);
    {
      const Autocast autocast(GetParam());
      for (int use = 0; use < 3; ++use) at::linear(x, weight);
    }
    EXPECT_EQ(casts.count(), 1);
  }
}

TEST_P(AutocastCache, CastsAWeightAtEachUseWhenOff) {
  const CastCounter casts(weight);
  const Autocast autocast(AutocastOptions(GetParam()).cache_enabled(false));
  for (int use = 0; use < 3; ++use) at::linear(x, weight);
  EXPECT_EQ(casts.count(), 3);
}

TEST_P(AutocastCache, CastsACachedTensorOfCudaGraphsAtEachUse) {
  at::caching::set_cached_tensors_enabled(true);
  at::caching::add_cached_tensor(weight);
  {
    const CastCounter casts(weight);
    const Autocast autocast(GetParam());
    for (int use = 0; use < 2; ++use) at::linear(x, weight);
    EXPECT_EQ(casts.count(), 2);
  }
  at::caching::remove_cached_tensor(weight);
  at::caching::set_cached_tensors_enabled(false);
}

TEST_P(AutocastCache, LivesThroughNestedRegionsOfTheSameDtype) {
  const CastCounter casts(weight);
  const Autocast outer(GetParam());
  at::linear(x, weight);
  {
    const Autocast inner(GetParam());
    at::linear(x, weight);
  }
  {
    const Autocast disabled(AutocastOptions(GetParam()).enabled(false));
    at::linear(x, weight);
  }
  at::linear(x, weight);
  EXPECT_EQ(casts.count(), 1);
}

TEST_P(AutocastCache, EndsWithTheOutermostRegion) {
  {
    const Autocast autocast(GetParam());
    at::linear(x, weight);
  }
  const CastCounter casts(weight);
  // Only the flag: a region of ours would start from an empty cache anyhow.
  at::autocast::set_autocast_enabled(GetParam(), true);
  at::linear(x, weight);
  at::autocast::set_autocast_enabled(GetParam(), false);
  at::autocast::clear_cache();
  EXPECT_EQ(casts.count(), 1);
}

TEST_P(AutocastCache, ARegionDoesNotSeeCastsItDidNotMake) {
  at::autocast::set_autocast_enabled(GetParam(), true);
  at::linear(x, weight);
  at::autocast::set_autocast_enabled(GetParam(), false);
  {
    const torch::NoGradGuard no_grad;
    weight.mul_(2);
  }
  const Autocast autocast(GetParam());
  const auto dtype = autocast.dtype();
  expect_same_bits(at::linear(x, weight), at::linear(x.to(dtype), weight.to(dtype)));
}

// One weight in both 16-bit dtypes: LibTorch's cache alone hands out the wrong one and mm throws.
TEST_P(AutocastCache, NestedRegionsOfDifferentDtypesShareAWeight) {
  const auto run = [&](c10::ScalarType dtype) {
    const auto result = at::linear(x, weight);
    const Autocast off(AutocastOptions(GetParam()).enabled(false));
    expect_same_bits(result, at::linear(x.to(dtype), weight.to(dtype)));
    return result.to(torch::kFloat).sum();
  };
  torch::Tensor total;
  {
    const Autocast outer(AutocastOptions(GetParam()).dtype(torch::kBFloat16));
    total = run(torch::kBFloat16);
    for (int repeat = 0; repeat < 2; ++repeat) {
      {
        const Autocast inner(AutocastOptions(GetParam()).dtype(torch::kHalf));
        total = total + run(torch::kHalf);
      }
      total = total + run(torch::kBFloat16);
      {
        const Autocast disabled(AutocastOptions(GetParam()).enabled(false).dtype(torch::kHalf));
        const Autocast inner(AutocastOptions(GetParam()).dtype(torch::kHalf));
        total = total + run(torch::kHalf);
      }
      total = total + run(torch::kBFloat16);
    }
  }
  total.backward();
  const auto expected = (9 * x.sum(0)).expand_as(weight);
  testing::expect_close(weight.grad(), expected, testing::tolerance(torch::kBFloat16, "step"));
}

TEST_P(AutocastCache, RegionsOfDifferentDtypesAlternate) {
  for (int step = 0; step < 4; ++step) {
    const auto dtype = step % 2 == 0 ? torch::kBFloat16 : torch::kHalf;
    torch::Tensor y;
    {
      const Autocast autocast(AutocastOptions(GetParam()).dtype(dtype));
      y = at::linear(x, weight);
    }
    expect_same_bits(y, at::linear(x.to(dtype), weight.to(dtype)));
    y.sum().backward();
    const torch::NoGradGuard no_grad;
    weight.sub_(weight.grad(), 0.1);
    weight.mutable_grad().reset();
  }
}

TEST_P(AutocastCache, ForwardWithoutGradThenWithGrad) {
  const auto bias = torch::zeros({3}, device()).requires_grad_();
  const Autocast autocast(GetParam());
  {
    const torch::NoGradGuard no_grad;
    EXPECT_FALSE(at::linear(x, weight, bias).requires_grad());
  }
  const auto y = at::linear(x, weight, bias);
  ASSERT_TRUE(y.requires_grad());
  EXPECT_NE(y.grad_fn(), nullptr);
  y.mean().backward();
  EXPECT_GT(weight.grad().abs().sum().item<float>(), 0);
  EXPECT_GT(bias.grad().abs().sum().item<float>(), 0);
}

TEST_P(AutocastCache, NoGradLoopMakesOneCast) {
  const CastCounter casts(weight);
  const Autocast autocast(GetParam());
  const torch::NoGradGuard no_grad;
  for (int step = 0; step < 4; ++step) at::linear(x, weight);
  EXPECT_EQ(casts.count(), 1);
}

TEST_P(AutocastCache, InferenceModeInsideARegion) {
  const Autocast autocast(GetParam());
  {
    const c10::InferenceMode inference;
    const auto y = at::linear(x, weight);
    EXPECT_FALSE(y.requires_grad());
    EXPECT_EQ(y.scalar_type(), autocast.dtype());
  }
  const auto y = at::linear(x, weight);
  ASSERT_TRUE(y.requires_grad());
  y.mean().backward();
  EXPECT_GT(weight.grad().abs().sum().item<float>(), 0);
}

TEST_P(AutocastCache, RegionInsideInferenceMode) {
  const c10::InferenceMode inference;
  const Autocast autocast(GetParam());
  const auto y = at::linear(x, weight);
  EXPECT_FALSE(y.requires_grad());
  EXPECT_EQ(y.scalar_type(), autocast.dtype());
}

TEST_P(AutocastCache, GivesGradientsToEveryUse) {
  const CastCounter casts(weight);
  const Autocast autocast(GetParam());
  std::vector<torch::Tensor> outputs;
  for (int use = 0; use < 3; ++use) outputs.push_back(at::linear(x, weight));
  EXPECT_EQ(casts.count(), 1);
  torch::Tensor last;
  for (const auto& y : outputs) {
    ASSERT_NE(y.grad_fn(), nullptr);
    y.mean().backward({}, /*retain_graph=*/true);
    last = weight.grad().clone();
  }
  testing::expect_close(last, 3 * torch::autograd::grad({outputs[0].mean()}, {weight})[0],
                        testing::tolerance(torch::kBFloat16, "matmul"));
}

TEST_P(AutocastCache, GradModesAlternate) {
  const CastCounter casts(weight);
  const Autocast autocast(GetParam());
  std::vector<torch::Tensor> outputs;
  for (int pass = 0; pass < 4; ++pass) {
    const torch::AutoGradMode mode(pass % 2 == 1);
    const auto y = at::linear(x, weight);
    EXPECT_EQ(y.requires_grad(), pass % 2 == 1);
    if (y.requires_grad()) outputs.push_back(y);
  }
  EXPECT_EQ(casts.count(), 1);
  (outputs[0].mean() + outputs[1].mean()).backward();
  EXPECT_GT(weight.grad().abs().sum().item<float>(), 0);
}

namespace {
struct LinearWithRegionInBackward : public torch::autograd::Function<LinearWithRegionInBackward> {
  static torch::Tensor forward(torch::autograd::AutogradContext* context,
                               const torch::Tensor& input, const torch::Tensor& weight) {
    context->save_for_backward({input, weight});
    return at::linear(input, weight);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grads) {
    const auto saved = context->get_saved_variables();
    const Autocast autocast(saved[0].device().type());
    return {at::matmul(grads[0], saved[1]), at::matmul(grads[0].t(), saved[0])};
  }
};
}  // namespace

// On CUDA backward runs on a thread of autograd's: one cast serves both threads.
TEST_P(AutocastCache, IsSharedWithBackward) {
  const CastCounter casts(weight);
  const Autocast autocast(GetParam());
  LinearWithRegionInBackward::apply(x, weight).sum().backward();
  EXPECT_EQ(casts.count(), 1);
  EXPECT_TRUE(weight.grad().defined());
}

TEST_P(AutocastCache, CastsCachedTensorsInForwardAndBackward) {
  at::caching::set_cached_tensors_enabled(true);
  at::caching::add_cached_tensor(weight);
  {
    const CastCounter casts(weight);
    const Autocast autocast(GetParam());
    LinearWithRegionInBackward::apply(x, weight).sum().backward();
    EXPECT_EQ(casts.count(), 2);
  }
  at::caching::remove_cached_tensor(weight);
  at::caching::set_cached_tensors_enabled(false);
}

}  // namespace halfstep
