#include "halfstep/train/loop/run_parts.h"

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

bool is_text(Config config) {
  return config.child("train_dataloader").child("dataset").get<std::string>("type") == "TextFile";
}

class ShippedConfig : public ::testing::TestWithParam<std::filesystem::path> {};

}  // namespace

TEST_P(ShippedConfig, NamesPartsThatTrainOneStep) {
  auto config = Config::load(GetParam());
  const auto parts = build_training(config, {.device = c10::kCPU});
  if (is_text(config))
    EXPECT_GT(parts.train_loader->dataset().size(), 400);
  else
    EXPECT_EQ(parts.train_loader->dataset().size(), 60000);
  const auto before = parts.model->parameters().at(0).clone();
  parts.model->train();
  const auto log_vars =
      parts.model->train_step(parts.train_loader->batch(0), parts.optim_wrapper());
  EXPECT_GT(log_vars["loss"].item<float>(), 0.5f);
  for (const auto& item : log_vars) EXPECT_TRUE(item.value().isfinite().item<bool>()) << item.key();
  // A loss scale may skip the first ones.
  for (int64_t i = 1; i < 20 && parts.model->parameters().at(0).equal(before); ++i)
    parts.model->train_step(parts.train_loader->batch(i), parts.optim_wrapper());
  EXPECT_FALSE(parts.model->parameters().at(0).equal(before));
}

TEST_P(ShippedConfig, NamesTestDataThatFitTheModel) {
  auto config = Config::load(GetParam());
  const bool is_tested = config.has("test_dataloader");
  const auto parts = build_training(config, {.device = c10::kCPU});
  ASSERT_EQ(parts.test_loader != nullptr, is_tested);
  if (!is_tested) return;  // a GAN is measured by GanInFull
  const auto batch = parts.test_loader->dataset().get_batch(torch::arange(3));
  if (is_text(config)) {
    EXPECT_EQ(parts.model->val_step(batch).sizes(),
              (std::vector<int64_t>{3 * batch.data.size(1), 256}));
    return;
  }
  EXPECT_EQ(parts.test_loader->dataset().size(), 10000);
  EXPECT_EQ(parts.model->val_step(batch).sizes(), (std::vector<int64_t>{3, 10}));
}

INSTANTIATE_TEST_SUITE_P(In, ShippedConfig, ::testing::ValuesIn(config_files()),
                         [](const auto& test) { return test.param.stem().string(); });

TEST(ShippedConfigs, AreFound) {
  EXPECT_GE(config_files().size(), 2u);
}

}  // namespace halfstep::train
