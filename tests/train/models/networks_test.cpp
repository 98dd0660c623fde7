// The networks of the benchmark against the same ones in Python (benchmarks/networks.py).
#include "tests/train/models/golden/networks.h"

#include "halfstep/autocast/autocast.h"
#include "halfstep/train/registry/registry.h"

#include <map>
#include <string>

#include <ATen/ops/cross_entropy_loss.h>
#include <torch/types.h>

#include "tests/support/devices.h"
#include "tests/support/tolerance.h"
#include "tests/train/models/hashed.h"

namespace halfstep::train {
namespace {

struct Batch {
  torch::Tensor input, target;
};

Batch batch_of(const std::string& type) {
  using testing::hashed;
  if (type == "Mlp") return {hashed({64, 784}, 1003), at::arange(64) * 7 % 10};
  if (type == "ResNet18") return {hashed({8, 1, 28, 28}, 1001), at::arange(8) * 7 % 10};
  return {(hashed({2, 128}, 1002) * 128 + 128).floor().to(torch::kLong),
          at::arange(256) * 31 % 256};
}

std::shared_ptr<BaseModel> build(const std::string& yaml) {
  Config config = Config::parse("m: " + yaml, "x.yaml");
  Config child = config.child("m");
  auto model = models().build(child);
  config.finish();
  return model;
}

struct Result {
  double loss;
  c10::ScalarType output_dtype;
};

Result forward_and_backward(BaseModel& model, const Batch& batch, c10::Device device,
                            const std::string& precision) {
  auto input = batch.input.to(device);
  if (precision == "float64") {
    model.to(torch::kDouble);
    if (input.is_floating_point()) input = input.to(torch::kDouble);
  }
  torch::Tensor output, loss;
  {
    const Autocast region(
        AutocastOptions(device.type()).enabled(precision == "autocast").dtype(at::kBFloat16));
    output = model.forward(input);
    loss = at::cross_entropy_loss(output, batch.target.to(device));
  }
  loss.backward();
  return {loss.item<double>(), output.scalar_type()};
}

struct Expectation {
  c10::ScalarType output_dtype;
  double loss, gradients;  // relative
};

// A loss is a mean over examples. Gradients pass ReLUs, and one that flips changes them by much:
// Python's float32 and float64 ResNets differ by 0.002, its bfloat16 one by 0.4.
Expectation expectation(const golden::Network& network) {
  const std::string precision = network.precision;
  const bool chaotic = network.type == std::string("ResNet18");
  if (precision == "float64") return {at::kDouble, 1e-10, 1e-8};
  if (precision == "float32") return {at::kFloat, 1e-6, chaotic ? 0.02 : 1e-4};
  return {at::kBFloat16, 2e-3, chaotic ? 1.0 : 0.05};
}

// Relative distance of whole gradients: a dot product with numbers in [-1, 1) is off by about
// half of it.
void expect_gradients(const BaseModel& model, const golden::Network& expected, double limit) {
  const auto parameters = model.named_parameters();
  ASSERT_EQ(parameters.size(), expected.gradients.size());
  for (size_t i = 0; i < parameters.size(); ++i) {
    const auto& wanted = expected.gradients[i];
    EXPECT_EQ(parameters[i].key(), wanted.name);
    const auto& parameter = parameters[i].value();
    ASSERT_TRUE(parameter.grad().defined()) << wanted.name;
    const auto gradient = parameter.grad().to(at::kCPU, at::kDouble);
    const auto direction = testing::hashed(parameter.sizes(), 2001 + static_cast<int64_t>(i));
    ASSERT_GT(wanted.norm, 0) << wanted.name;
    EXPECT_NEAR(gradient.norm().item<double>(), wanted.norm, limit * wanted.norm) << wanted.name;
    EXPECT_NEAR((gradient * direction).sum().item<double>(), wanted.dot, limit * wanted.norm)
        << wanted.name;
  }
}

class Networks : public testing::DeviceTest {};

}  // namespace

TEST_P(Networks, GivePythonsLossesAndGradients) {
  ASSERT_EQ(golden::networks.size(), 9);
  for (const auto& expected : golden::networks) {
    for (const bool channels_last : {false, true}) {
      const bool resnet = expected.type == std::string("ResNet18");
      if (channels_last && !resnet) continue;
      SCOPED_TRACE(std::string(expected.type) + " " + expected.precision +
                   (channels_last ? " channels_last" : ""));
      const auto model =
          build(std::string("{type: ") + expected.type + (resnet ? ", width: 16" : "") +
                (channels_last ? ", channels_last: true}" : "}"));
      testing::set_hashed_weights(*model);
      model->to(device());
      const auto result =
          forward_and_backward(*model, batch_of(expected.type), device(), expected.precision);
      const auto [output_dtype, loss, gradients] = expectation(expected);
      EXPECT_EQ(result.output_dtype, output_dtype);
      EXPECT_NEAR(result.loss, expected.loss, loss * expected.loss);
      expect_gradients(*model, expected, gradients);
    }
  }
}

HALFSTEP_ON_EACH_DEVICE(Networks);

}  // namespace halfstep::train
