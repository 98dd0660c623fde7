#include "halfstep/precision/policy_layer.h"

#include "halfstep/autocast/autocast.h"
#include "halfstep/core/error.h"
#include "halfstep/precision/policy_names.h"

#include <cmath>

#include <torch/nn/modules/linear.h>
#include <torch/nn/modules/normalization.h>
#include <torch/types.h>

#include "tests/support/devices.h"
#include "tests/support/errors.h"
#include "tests/support/tolerance.h"

namespace halfstep::testing {

class PolicyLayers : public DeviceTest {
 protected:
  torch::nn::Linear linear() const {
    torch::manual_seed(1);
    torch::nn::Linear made(8, 4);
    made->to(device());
    return made;
  }
  at::Tensor input(c10::ScalarType dtype = torch::kFloat) const {
    torch::manual_seed(2);
    return torch::randn({3, 8}).to(device(), dtype);
  }
  static at::Tensor product(const torch::nn::Linear& layer, const at::Tensor& x,
                            c10::ScalarType dtype) {
    return torch::addmm(layer->bias.to(dtype), x.to(dtype), layer->weight.to(dtype).t());
  }
};
HALFSTEP_ON_EACH_DEVICE(PolicyLayers);

TEST_P(PolicyLayers, MixedComputesLow) {
  const auto plain = linear();
  for (const auto* name : {"mixed_float16", "mixed_bfloat16"}) {
    PolicyLayer<torch::nn::Linear> layer(linear(), name);
    const auto dtype = layer.compute_dtype();
    const auto output = layer(input());
    expect_same_bits(output, product(plain, input(), dtype));
    EXPECT_EQ(layer.layer()->weight.scalar_type(), torch::kFloat);
    EXPECT_EQ(layer.variable_dtype(), torch::kFloat);
    output.sum().backward();
    const auto grad = layer.layer()->weight.grad();
    EXPECT_EQ(grad.scalar_type(), torch::kFloat);
    expect_close(grad[0], input().sum(0), tolerance(dtype, "matmul", Direction::backward));
    EXPECT_FALSE(grad.equal(input().sum(0).expand({4, 8}))) << "rounded on its way";
  }
}

TEST_P(PolicyLayers, OutputIsInItsDtype) {
  PolicyLayer<torch::nn::Linear> layer(linear(), fabric_policy("bf16-mixed"));
  const auto output = layer(input());
  expect_same_bits(output, product(linear(), input(), torch::kBFloat16).to(torch::kFloat));
}

TEST_P(PolicyLayers, Float32LayerInsideARegion) {
  PolicyLayer<torch::nn::Linear> layer(linear(), "float32");
  const Autocast autocast(AutocastOptions(GetParam()).dtype(torch::kBFloat16));
  const auto low = input(torch::kBFloat16);
  const auto output = layer(low);
  EXPECT_EQ(output.scalar_type(), torch::kFloat);
  EXPECT_EQ(torch::mm(low, low.t()).scalar_type(), torch::kBFloat16) << "the region goes on";
  expect_same_bits(output, [&] {
    const Autocast off(AutocastOptions(GetParam()).enabled(false));
    return product(linear(), low, torch::kFloat);
  }());
}

TEST_P(PolicyLayers, PurePolicyCastsParameters) {
  PolicyLayer<torch::nn::Linear> layer(linear(), "bfloat16");
  EXPECT_EQ(layer.layer()->weight.scalar_type(), torch::kBFloat16);
  expect_same_bits(layer(input()), product(linear(), input(), torch::kBFloat16));
}

TEST_P(PolicyLayers, TakesTheGlobalPolicyWhenMade) {
  const auto before = dtype_policy();
  set_dtype_policy("mixed_bfloat16");
  PolicyLayer<torch::nn::Linear> layer(linear());
  set_dtype_policy(before);
  EXPECT_EQ(layer.policy(), "mixed_bfloat16");
  EXPECT_EQ(layer(input()).scalar_type(), torch::kBFloat16);
}

struct TwoOutputsImpl : torch::nn::Module {
  std::tuple<at::Tensor, int> forward(const std::vector<at::Tensor>& inputs, const at::Tensor& ids,
                                      int number = 5) {
    dtypes = {inputs[0].scalar_type(), ids.scalar_type()};
    return {inputs[0] + ids, number};
  }
  std::vector<c10::ScalarType> dtypes;
};
TORCH_MODULE(TwoOutputs);

TEST_P(PolicyLayers, ContainersAndOtherArguments) {
  PolicyLayer<TwoOutputs> layer(TwoOutputs(), get_policy("c=bf16,o=f32"));
  const auto ids = torch::ones({3, 8}, torch::device(device()).dtype(torch::kLong));
  const auto [sum, number] = layer(std::vector<at::Tensor>{input()}, ids, 6);
  EXPECT_EQ(layer.layer()->dtypes, (std::vector<c10::ScalarType>{torch::kBFloat16, torch::kLong}));
  EXPECT_EQ(sum.scalar_type(), torch::kFloat);
  EXPECT_EQ(number, 6);
  EXPECT_EQ(std::get<1>(layer(std::vector<at::Tensor>{input()}, ids)), 5) << "default arguments";
}

struct CounterImpl : torch::nn::Module {
  at::Tensor weight = register_parameter("weight", torch::ones({4, 4}));
  at::Tensor average = register_buffer("average", torch::ones({4}));
  at::Tensor count = register_buffer("count", torch::full({}, 257, torch::kLong));
  at::Tensor forward(int64_t rows) { return torch::ones({rows, 4}, weight.device()).mm(weight); }
};
TORCH_MODULE(Counter);

// 257 has no bfloat16, and an index must stay one.
TEST_P(PolicyLayers, IntegerBuffersStay) {
  PolicyLayer<Counter> layer(Counter(), "bfloat16");
  EXPECT_EQ(layer.layer()->weight.scalar_type(), torch::kBFloat16);
  EXPECT_EQ(layer.layer()->average.scalar_type(), torch::kBFloat16);
  EXPECT_EQ(layer.layer()->count.scalar_type(), torch::kLong);
  EXPECT_EQ(layer.layer()->count.item<int64_t>(), 257);
}

TEST_P(PolicyLayers, WithoutTensorArgumentsRunsOnTheModulesDevice) {
  Counter made;
  made->to(device());
  PolicyLayer<Counter> layer(made, fabric_policy("bf16-mixed"));
  const auto rounded = torch::full({4, 4}, 1 + std::pow(2.0, -12), device());
  made->weight.detach().copy_(rounded);
  expect_same_bits(layer(3), torch::full({3, 4}, 4.0, device()));
}

TEST_P(PolicyLayers, RefusesWhatAutocastCantMake) {
  EXPECT_ERROR(PolicyLayer<torch::nn::Linear>(linear(), get_policy("p=bf16,c=f32")), UsageError,
               "[DtypePolicy]", "but got p=bf16,c=full,o=full");
}

}  // namespace halfstep::testing
