#include "halfstep/train/models/resnet.h"

#include "halfstep/core/error.h"
#include "halfstep/train/registry/registry.h"

#include <torch/types.h>

#include "tests/support/devices.h"
#include "tests/support/errors.h"
#include "tests/support/tolerance.h"

namespace halfstep::train {
namespace {

std::shared_ptr<BaseModel> build_resnet(const std::string& yaml) {
  Config config = Config::parse("m: " + yaml, "x.yaml");
  Config child = config.child("m");
  auto model = models().build(child);
  config.finish();
  return model;
}

class ResNet18Model : public testing::DeviceTest {};

}  // namespace

TEST_P(ResNet18Model, ScoresImagesOfAnySize) {
  const auto model = build_resnet("{type: ResNet18, width: 4, in_channels: 3, classes: 7}");
  model->to(device());
  for (const int64_t size : {1, 8, 28, 33})
    EXPECT_EQ(model->forward(torch::randn({2, 3, size, size}, device())).sizes(),
              (std::vector<int64_t>{2, 7}));
}

TEST_P(ResNet18Model, ComputesInChannelsLast) {
  const auto model =
      build_resnet("{type: ResNet18, width: 4, in_channels: 3, channels_last: true}");
  model->to(device());
  for (const auto& p : model->parameters())
    EXPECT_TRUE(p.dim() != 4 || p.is_contiguous(at::MemoryFormat::ChannelsLast)) << p.sizes();
  model->forward(torch::randn({2, 3, 8, 8}, device())).sum().backward();
  const auto gradient = model->named_parameters()["layer2.0.conv2.weight"].grad();
  EXPECT_TRUE(gradient.is_contiguous(at::MemoryFormat::ChannelsLast));
  EXPECT_FALSE(gradient.is_contiguous());
}

TEST_P(ResNet18Model, MovesItsStatisticsInTrainingOnly) {
  const auto model = build_resnet("{type: ResNet18, width: 4}");
  model->to(device());
  const auto input = torch::randn({4, 1, 12, 12}, device());
  const auto mean = [&] { return model->named_buffers()["layer4.1.bn2.running_mean"].clone(); };
  const auto start = mean();
  model->forward(input);
  const auto trained = mean();
  EXPECT_FALSE(trained.equal(start));
  model->eval();
  testing::expect_same_bits(model->forward(input), model->forward(input));
  testing::expect_same_bits(mean(), trained);
}

HALFSTEP_ON_EACH_DEVICE(ResNet18Model);

TEST(ResNet18, StartsTheSameForOneSeed) {
  torch::manual_seed(3);
  const auto a = build_resnet("{type: ResNet18, width: 4}");
  torch::manual_seed(3);
  const auto b = build_resnet("{type: ResNet18, width: 4, channels_last: true}");
  for (const auto& item : a->named_parameters())
    testing::expect_same_bits(item.value(), b->named_parameters()[item.key()]);
}

TEST(ResNet18, MisuseIsAnError) {
  EXPECT_ERROR(build_resnet("{type: ResNet18, in_channels: 0}"), UsageError,
               "[config] x.yaml:1: m.in_channels must be at least 1, but got 0");
  EXPECT_ERROR(build_resnet("{type: ResNet18, width: 0}"), UsageError,
               "m.width must be at least 1, but got 0");
  EXPECT_ERROR(build_resnet("{type: ResNet18, classes: 0}"), UsageError,
               "m.classes must be at least 1, but got 0");
  ResNet18::Options options;
  options.width = -1;
  EXPECT_ERROR(ResNet18{options}, UsageError, "[ResNet18] width must be at least 1");
  EXPECT_ERROR(build_resnet("{type: ResNet18, width: 4}")->forward(torch::zeros({2, 3, 28, 28})),
               UsageError,
               "[ResNet18::forward] input must have shape (n, 1, height, width), but got [2, 3, "
               "28, 28]");
}

}  // namespace halfstep::train
