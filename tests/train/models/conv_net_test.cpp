#include "halfstep/train/models/conv_net.h"

#include "halfstep/core/error.h"
#include "halfstep/train/registry/registry.h"

#include <ATen/ops/cross_entropy_loss.h>
#include <torch/optim/sgd.h>
#include <torch/types.h>
#include <torch/utils.h>

#include "tests/support/devices.h"
#include "tests/support/errors.h"
#include "tests/support/tolerance.h"

namespace halfstep::train {
namespace {

std::shared_ptr<BaseModel> build_conv_net(const std::string& yaml) {
  Config config = Config::parse("m: " + yaml, "x.yaml");
  Config child = config.child("m");
  auto model = models().build(child);
  config.finish();
  return model;
}

class ConvNetModel : public testing::DeviceTest {};

}  // namespace

TEST_P(ConvNetModel, ScoresImages) {
  const auto model = build_conv_net("{type: ConvNet}");
  model->to(device());
  EXPECT_EQ(model->forward(torch::randn({3, 1, 28, 28}, device())).sizes(),
            (std::vector<int64_t>{3, 10}));
  const auto other = build_conv_net(
      "{type: ConvNet, in_channels: 3, image_size: 9, channels: [4, 5, 6], classes: 2}");
  other->to(device());
  EXPECT_EQ(other->forward(torch::randn({2, 3, 9, 9}, device())).sizes(),
            (std::vector<int64_t>{2, 2}));
}

TEST_P(ConvNetModel, DropsAndNormalisesInTrainingOnly) {
  const auto model = build_conv_net("{type: ConvNet, channels: [4], dropout: 0.5}");
  model->to(device());
  const auto input = torch::randn({8, 1, 28, 28}, device());
  const auto mean_before = model->named_buffers()["bn1.running_mean"].clone();
  EXPECT_FALSE(model->forward(input).equal(model->forward(input)));
  const auto mean = model->named_buffers()["bn1.running_mean"].clone();
  EXPECT_FALSE(mean.equal(mean_before));
  model->eval();
  testing::expect_same_bits(model->forward(input), model->forward(input));
  testing::expect_same_bits(model->named_buffers()["bn1.running_mean"], mean);
}

TEST_P(ConvNetModel, Learns) {
  torch::manual_seed(1);
  const auto model = build_conv_net("{type: ConvNet, channels: [4, 8], dropout: 0.1, classes: 3}");
  model->to(device());
  const auto input = torch::randn({12, 1, 28, 28}, device());
  const auto target = torch::arange(12, torch::TensorOptions(device()).dtype(torch::kLong)) % 3;
  torch::optim::SGD optimizer(model->parameters(), torch::optim::SGDOptions(0.05).momentum(0.9));
  float first = 0, last = 0;
  for (int step = 0; step < 30; ++step) {
    optimizer.zero_grad();
    const auto loss = at::cross_entropy_loss(model->forward(input), target);
    loss.backward();
    optimizer.step();
    last = loss.item<float>();
    if (step == 0) first = last;
  }
  EXPECT_LT(last, first / 2);
}

HALFSTEP_ON_EACH_DEVICE(ConvNetModel);

TEST(ConvNet, NamesItsParametersInOrder) {
  std::vector<std::string> names;
  const auto model = build_conv_net("{type: ConvNet}");
  for (const auto& item : model->named_parameters()) names.push_back(item.key());
  EXPECT_EQ(names, (std::vector<std::string>{"conv1.weight", "conv1.bias", "bn1.weight", "bn1.bias",
                                             "conv2.weight", "conv2.bias", "bn2.weight", "bn2.bias",
                                             "fc.weight", "fc.bias"}));
  EXPECT_EQ(model->named_parameters()["fc.weight"].sizes(), (std::vector<int64_t>{10, 32 * 49}));
}

TEST(ConvNet, MisuseIsAnError) {
  const struct {
    const char *yaml, *expected;
  } cases[] = {
      {"in_channels: 0", "m.in_channels must be at least 1, but got 0"},
      {"image_size: 0", "m.image_size must be at least 1, but got 0"},
      {"classes: -1", "m.classes must be at least 1, but got -1"},
      {"dropout: 1", "m.dropout must be in [0, 1), but got 1"},
      {"dropout: -0.1", "m.dropout must be in [0, 1), but got -0.1"},
      {"channels: []", "m.channels must have at least one entry, but got []"},
      {"channels: [8, 0]", "m.channels must have entries of at least 1, but got [8, 0]"},
      {"channels: [1, 1, 1, 1, 1]", "m.channels must have fewer entries: each halves the images"},
  };
  for (const auto& c : cases)
    EXPECT_ERROR(build_conv_net(std::string("{type: ConvNet, ") + c.yaml + "}"), UsageError,
                 "[config] x.yaml:1: ", c.expected);
  ConvNet::Options options;
  options.dropout = 2;
  EXPECT_ERROR(ConvNet{options}, UsageError,
               "[ConvNet] dropout must be in [0, 1), but got 2; change that option");
  EXPECT_ERROR(build_conv_net("{type: ConvNet}")->forward(torch::zeros({2, 28, 28})), UsageError,
               "[ConvNet::forward] input must have shape (n, 1, 28, 28), but got [2, 28, 28]");
}

}  // namespace halfstep::train
