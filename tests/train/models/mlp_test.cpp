#include "halfstep/train/models/mlp.h"

#include "halfstep/core/error.h"
#include "halfstep/train/registry/registry.h"

#include <torch/nn/modules/linear.h>
#include <torch/types.h>
#include <torch/utils.h>

#include "tests/support/devices.h"
#include "tests/support/errors.h"
#include "tests/support/tolerance.h"

namespace halfstep::train {
namespace {

std::shared_ptr<BaseModel> build_mlp(const std::string& yaml) {
  Config config = Config::parse("m: " + yaml, "x.yaml");
  Config child = config.child("m");
  auto model = models().build(child);
  config.finish();
  return model;
}

std::vector<std::string> parameter_names(const torch::nn::Module& module) {
  std::vector<std::string> names;
  for (const auto& item : module.named_parameters()) names.push_back(item.key());
  return names;
}

class MlpModel : public testing::DeviceTest {};

}  // namespace

TEST_P(MlpModel, IsItsLayersWithTheActivationBetween) {
  const auto model = build_mlp("{type: Mlp, sizes: [12, 5, 4, 3]}");
  model->to(device());
  const auto input = torch::randn({2, 1, 3, 4}, device());
  auto p = model->named_parameters();
  auto x = input.reshape({2, 12});
  x = (x.matmul(p["fc1.weight"].t()) + p["fc1.bias"]).relu();
  x = (x.matmul(p["fc2.weight"].t()) + p["fc2.bias"]).relu();
  x = x.matmul(p["fc3.weight"].t()) + p["fc3.bias"];
  testing::expect_close(model->forward(input), x, testing::tolerance(torch::kFloat, "step"));
}

HALFSTEP_ON_EACH_DEVICE(MlpModel);

TEST(Mlp, HasPythonsParameterNamesAndTheSeedsSizesByDefault) {
  const auto model = build_mlp("{type: Mlp}");
  EXPECT_EQ(parameter_names(*model),
            (std::vector<std::string>{"fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"}));
  EXPECT_EQ(model->named_parameters()["fc1.weight"].sizes(), (std::vector<int64_t>{256, 784}));
  EXPECT_EQ(model->named_parameters()["fc2.weight"].sizes(), (std::vector<int64_t>{10, 256}));
  EXPECT_EQ(model->forward(torch::zeros({3, 1, 28, 28})).sizes(), (std::vector<int64_t>{3, 10}));
}

TEST(Mlp, StartsAsLibTorchsLayersDo) {
  torch::manual_seed(3);
  const auto model = build_mlp("{type: Mlp, sizes: [7, 5, 2]}");
  torch::manual_seed(3);
  torch::nn::Linear first(7, 5), second(5, 2);
  auto p = model->named_parameters();
  testing::expect_same_bits(p["fc1.weight"], first->weight);
  testing::expect_same_bits(p["fc1.bias"], first->bias);
  testing::expect_same_bits(p["fc2.weight"], second->weight);
  testing::expect_same_bits(p["fc2.bias"], second->bias);
}

TEST(Mlp, ActivationsDiffer) {
  std::vector<torch::Tensor> outputs;
  for (const char* name : {"relu", "gelu", "silu", "tanh", "sigmoid"}) {
    torch::manual_seed(3);
    const auto model =
        build_mlp(std::string("{type: Mlp, sizes: [4, 8, 2], activation: ") + name + "}");
    outputs.push_back(model->forward(torch::ones({1, 4})));
  }
  for (size_t i = 0; i < outputs.size(); ++i)
    for (size_t j = 0; j < i; ++j) EXPECT_FALSE(outputs[i].equal(outputs[j])) << i << " " << j;
}

TEST(Mlp, MisuseIsAnError) {
  EXPECT_ERROR(build_mlp("{type: Mlp, sizes: [784]}"), UsageError,
               "[config] x.yaml:1: m.sizes must be at least two sizes (inputs, outputs) of at "
               "least 1, but got [784]");
  EXPECT_ERROR(build_mlp("{type: Mlp, sizes: [4, 0, 2]}"), UsageError, "but got [4, 0, 2]");
  EXPECT_ERROR(build_mlp("{type: Mlp, activation: rely}"), UsageError,
               "[config] x.yaml:1: m.activation must be one of gelu, relu, sigmoid, silu and tanh, "
               "but got rely");
  EXPECT_ERROR(Mlp(Mlp::Options{{3}, "relu"}), UsageError, "[Mlp] sizes must be at least two");
  EXPECT_ERROR(Mlp(Mlp::Options{{3, 2}, "x"}), UsageError, "[Mlp] activation must be one of");
  EXPECT_ERROR(build_mlp("{type: Mlp}")->forward(torch::zeros({2, 1, 32, 32})), UsageError,
               "[Mlp::forward] input must have 784 numbers in each example, but got shape [2, 1, "
               "32, 32]");
}

}  // namespace halfstep::train
