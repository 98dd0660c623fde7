#include "halfstep/train/optim/scheduler.h"
#include "halfstep/train/registry/registry.h"

#include <algorithm>
#include <filesystem>

#include <torch/types.h>

#include <gtest/gtest.h>

namespace halfstep::train {
namespace {

std::vector<std::filesystem::path> config_files() {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(HALFSTEP_SOURCE_DIR "/configs"))
    if (entry.path().extension() == ".yaml") files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  return files;
}

class ShippedConfig : public ::testing::TestWithParam<std::filesystem::path> {};

}  // namespace

TEST_P(ShippedConfig, NamesPartsThatTrainOneStep) {
  Config config = Config::load(GetParam());
  auto model_config = config.child("model");
  auto loss_config = config.child("loss");
  auto wrapper = config.child("optim_wrapper");
  auto optimizer_config = wrapper.child("optimizer");
  const auto model = models().build(model_config);
  const auto loss = losses().build(loss_config);
  const auto optimizer = optimizers().build(optimizer_config, model->parameters());
  for (auto& scheduler : config.children("param_scheduler")) {
    schedulers().build(scheduler, *optimizer)->step();
    scheduler.finish();
  }
  for (auto* part : {&model_config, &loss_config, &optimizer_config}) part->finish();

  const auto data = torch::rand({8, 1, 28, 28});
  const auto target = torch::arange(8, torch::kLong);
  const auto before = model->parameters().at(0).clone();
  const auto value = loss(model->forward(data), target);
  EXPECT_GT(value.item<float>(), 0.5f);
  value.backward();
  optimizer->step();
  EXPECT_FALSE(model->parameters().at(0).equal(before));
}

TEST_P(ShippedConfig, HasTheKeysOfATraining) {
  Config config = Config::load(GetParam());
  EXPECT_GE(config.child("train_cfg").get<int64_t>("max_epochs"), 1);
  for (const char* loader : {"train_dataloader", "test_dataloader"}) {
    EXPECT_GE(config.child(loader).get<int64_t>("batch_size"), 1);
    auto dataset = config.child(loader).child("dataset");
    EXPECT_EQ(dataset.get<std::string>("type"), "Mnist");
    EXPECT_EQ(dataset.get<std::string>("split") + "_dataloader", loader);
  }
}

INSTANTIATE_TEST_SUITE_P(In, ShippedConfig, ::testing::ValuesIn(config_files()),
                         [](const auto& test) { return test.param.stem().string(); });

TEST(ShippedConfigs, AreFound) {
  EXPECT_GE(config_files().size(), 2u);
}

}  // namespace halfstep::train
