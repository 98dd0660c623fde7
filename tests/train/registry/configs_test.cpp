#include "halfstep/train/registry/registry.h"

#include <algorithm>
#include <filesystem>
#include <utility>

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
    EXPECT_GT(schedulers().build(scheduler).rate(1.0, 1), 0);
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

TEST_P(ShippedConfig, NamesDataThatFitTheModel) {
  Config config = Config::load(GetParam());
  auto model_config = config.child("model");
  const auto model = models().build(model_config);
  for (const auto& [loader, size] :
       {std::pair("train_dataloader", 60000), {"test_dataloader", 10000}}) {
    auto loader_config = config.child(loader);
    EXPECT_GE(loader_config.get<int64_t>("batch_size"), 1);
    loader_config.get<bool>("shuffle", false);
    auto dataset_config = loader_config.child("dataset");
    const auto dataset = datasets().build(dataset_config);
    loader_config.finish();
    EXPECT_EQ(dataset->size(), size);
    const auto batch = dataset->get_batch(torch::arange(3));
    EXPECT_EQ(model->forward(batch.data).sizes(), (std::vector<int64_t>{3, 10}));
  }
}

INSTANTIATE_TEST_SUITE_P(In, ShippedConfig, ::testing::ValuesIn(config_files()),
                         [](const auto& test) { return test.param.stem().string(); });

TEST(ShippedConfigs, AreFound) {
  EXPECT_GE(config_files().size(), 2u);
}

}  // namespace halfstep::train
