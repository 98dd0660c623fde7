#include "halfstep/optim/weight_dtype.h"

#include "halfstep/autocast/autocast.h"
#include "halfstep/core/error.h"
#include "halfstep/nn/linear.h"

#include <ATen/ops/rand.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/embedding.h>
#include <torch/nn/modules/linear.h>
#include <torch/nn/modules/normalization.h>
#include <torch/types.h>
#include <torch/utils.h>

#include "tests/support/devices.h"
#include "tests/support/errors.h"
#include "tests/support/tolerance.h"

namespace halfstep::optim {
namespace {

struct Net : torch::nn::Module {
  torch::nn::Conv2d conv{register_module("conv", torch::nn::Conv2d(1, 4, 3))};
  torch::nn::ConvTranspose2d up{register_module("up", torch::nn::ConvTranspose2d(4, 2, 3))};
  torch::nn::BatchNorm2d batch_norm{register_module("batch_norm", torch::nn::BatchNorm2d(2))};
  torch::nn::Linear first{register_module("first", torch::nn::Linear(128, 16))};
  torch::nn::LayerNorm layer_norm{
      register_module("layer_norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({16})))};
  nn::Linear second{register_module("second", nn::Linear(16, 8))};
  torch::nn::Embedding embedding{register_module("embedding", torch::nn::Embedding(10, 8))};
  nn::Linear tied{register_module("tied", nn::Linear(torch::nn::LinearOptions(8, 10).bias(false)))};
  at::Tensor own = register_parameter("own", torch::full({8}, 1.01));

  Net() { tied->weight = tied->register_parameter("weight2", embedding->weight); }

  at::Tensor forward(const at::Tensor& x) {
    const auto image = batch_norm(up(conv(x)));
    const auto hidden = second(layer_norm(first(image.flatten(1))));
    return tied(hidden.to(torch::kFloat) * own);
  }
};

class WeightDtype : public halfstep::testing::DeviceTest {
 protected:
  void SetUp() override {
    DeviceTest::SetUp();
    if (IsSkipped()) return;
    torch::manual_seed(2);
    net->to(device());
  }
  at::Tensor output(c10::ScalarType dtype) {
    torch::manual_seed(3);
    const auto x = torch::rand({4, 1, 8, 8}).to(device());
    const Autocast region(AutocastOptions(GetParam()).dtype(dtype));
    return net->forward(x);
  }
  std::shared_ptr<Net> net = std::make_shared<Net>();
};

TEST_P(WeightDtype, CastsWhatAutocastWouldCastAndNothingElse) {
  for (const auto dtype : {torch::kBFloat16, torch::kHalf, torch::kFloat}) {
    const auto before = net->named_parameters();
    EXPECT_EQ(set_weight_dtype(*net, dtype), 9) << dtype;
    EXPECT_EQ(set_weight_dtype(*net, dtype), 0) << dtype;
    for (const auto& item : net->named_parameters()) {
      const auto& name = item.key();
      // tied.weight is what the constructor of Linear made; nobody uses it.
      const bool cast = name.starts_with("conv.") || name.starts_with("up.") ||
                        name.starts_with("first.") || name.starts_with("second.") ||
                        name == "tied.weight";
      EXPECT_EQ(item.value().scalar_type(), cast ? dtype : torch::kFloat) << name;
      EXPECT_TRUE(item.value().is_same(before[name])) << name;
      EXPECT_TRUE(item.value().requires_grad()) << name;
    }
  }
}

TEST_P(WeightDtype, TheFirstForwardHasTheSameBits) {
  for (const auto dtype : {torch::kBFloat16, torch::kHalf}) {
    net = std::make_shared<Net>();
    net->to(device());
    const auto expected = output(dtype);
    ASSERT_GT(expected.abs().sum().item<float>(), 0);
    EXPECT_GT(set_weight_dtype(*net, dtype), 0);
    halfstep::testing::expect_same_bits(output(dtype), expected);
  }
}

TEST_P(WeightDtype, GradientsFollow) {
  output(torch::kBFloat16).to(torch::kFloat).square().mean().backward();
  ASSERT_TRUE(net->first->weight.grad().defined());
  const auto expected = net->first->weight.grad().to(torch::kBFloat16);
  ASSERT_GT(expected.abs().sum().item<float>(), 0);
  set_weight_dtype(*net, torch::kBFloat16);
  EXPECT_FALSE(net->first->weight.grad().defined());
  EXPECT_TRUE(net->own.grad().defined());
  output(torch::kBFloat16).to(torch::kFloat).square().mean().backward();
  halfstep::testing::expect_same_bits(net->first->weight.grad(), expected);
}

HALFSTEP_ON_EACH_DEVICE(WeightDtype);

TEST(WeightDtypeErrors, OtherDtypes) {
  torch::nn::Linear linear(2, 2);
  EXPECT_ERROR(set_weight_dtype(*linear, torch::kLong), UsageError, "[set_weight_dtype]",
               "but got int64");
  EXPECT_EQ(set_weight_dtype(*linear, torch::kDouble), 2);
}

}  // namespace
}  // namespace halfstep::optim
