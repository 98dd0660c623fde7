#include "halfstep/optim/gradient_dtype.h"

#include "halfstep/autocast/autocast.h"
#include "halfstep/autocast/shadow_weights.h"
#include "halfstep/core/error.h"
#include "halfstep/nn/linear.h"
#include "halfstep/scaling/grad_scaler.h"

#include <torch/torch.h>

#include "tests/support/devices.h"
#include "tests/support/errors.h"
#include "tests/support/tolerance.h"

namespace halfstep::optim {
namespace {

class GradientDtype : public testing::DeviceTest {
 protected:
  void SetUp() override {
    testing::DeviceTest::SetUp();
    if (IsSkipped()) return;
    torch::manual_seed(1);
    x = torch::randn({8, 6}, device());
    weight = torch::randn({3, 6}, device()).requires_grad_();
  }
  torch::Tensor loss() {
    const Autocast autocast(AutocastOptions(GetParam()).dtype(torch::kBFloat16));
    return at::linear(x, weight).to(torch::kFloat).square().mean();
  }
  torch::Tensor x;
  torch::Tensor weight;
};
HALFSTEP_ON_EACH_DEVICE(GradientDtype);

}  // namespace

TEST_P(GradientDtype, KeepsTheGradientsOfFloat32WeightsInBfloat16) {
  loss().backward();
  const auto expected = weight.grad().to(torch::kBFloat16);
  EXPECT_EQ(gradient_dtype(weight), torch::kFloat);
  EXPECT_GT(expected.abs().sum().item<float>(), 0);
  for (const bool shadowed : {false, true}) {
    weight.mutable_grad() = torch::Tensor();
    set_gradient_dtype(weight, torch::kBFloat16);
    EXPECT_EQ(gradient_dtype(weight), torch::kBFloat16);
    std::optional<ShadowWeights> shadows;
    if (shadowed) shadows.emplace(std::vector{weight}, torch::kBFloat16);
    loss().backward();
    testing::expect_same_bits(weight.grad(), expected);
  }
}

TEST_P(GradientDtype, AddsUpInFloat32OnBfloat16Weights) {
  weight = weight.detach().to(torch::kBFloat16).requires_grad_();
  const auto step = [&](double factor) { (loss() * factor).backward(); };
  set_gradient_dtype(weight, torch::kFloat);
  step(1);
  const auto one = weight.grad().clone();
  for (int i = 0; i < 300; ++i) step(1);
  EXPECT_EQ(weight.grad().scalar_type(), torch::kFloat);
  testing::expect_close(weight.grad(), one * 301, {1e-5, 1e-5});
  // In 16 bits the sum stands still once a part is below half a unit of its last place.
  EXPECT_GT((one.to(torch::kBFloat16) * 256 + one.to(torch::kBFloat16) - one * 257)
                .abs()
                .max()
                .item<float>(),
            0);
}

TEST_P(GradientDtype, ScalerUnscalesThem) {
  set_gradient_dtype(weight, torch::kBFloat16);
  torch::optim::SGD optimizer({weight}, torch::optim::SGDOptions(0.1));
  GradScaler scaler(GradScalerOptions(GetParam()).init_scale(1024));
  loss().backward();
  const auto expected = weight.grad().clone();
  const auto before = weight.detach().clone();
  optimizer.zero_grad();
  scaler.scale(loss()).backward();
  EXPECT_TRUE(scaler.step(optimizer).stepped());
  testing::expect_same_bits(weight.grad(), expected);
  testing::expect_close(weight.detach(), before - 0.1 * expected.to(torch::kFloat),
                        testing::tolerance(torch::kFloat, "update"));
}

TEST_P(GradientDtype, RefusesWhatHasNone) {
  EXPECT_ERROR(set_gradient_dtype(weight, torch::kLong), UsageError,
               "[set_gradient_dtype] dtype must be a floating-point one, but got int64");
  EXPECT_ERROR(set_gradient_dtype(weight * 2, torch::kHalf), UsageError,
               "parameters must be floating-point leaves");
  loss().backward();
  EXPECT_ERROR(set_gradient_dtype(weight, torch::kHalf), UsageError,
               "must have the dtype float16, but got one in float32; call zero_grad() first");
  EXPECT_EQ(gradient_dtype(weight), torch::kFloat);
}

}  // namespace halfstep::optim
