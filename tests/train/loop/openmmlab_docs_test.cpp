#include "halfstep/train/loop/trainer.h"

#include <fstream>

#include "tests/support/temp_folder.h"
#include "tests/train/loop/blobs.h"
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace halfstep::train {

namespace {

using halfstep::testing::read_file;
using halfstep::testing::TempFolder;

// What stands between "```yaml" and "```" in a page.
std::vector<std::string> yaml_blocks(const std::string& page) {
  std::vector<std::string> blocks;
  const std::string fence = "\n```yaml\n";
  for (size_t at = 0; (at = page.find(fence, at)) != page.npos;) {
    at += fence.size();
    const size_t end = page.find("```\n", at);
    blocks.push_back(page.substr(at, end - at));
    at = end;
  }
  return blocks;
}

// So many images as a generator has to wait for twice.
class Images : public Dataset {
 public:
  int64_t size() const override { return 32; }
  Batch get_batch(const torch::Tensor& indices) const override {
    const auto n = indices.size(0);
    return {torch::linspace(0, 1, n * 28 * 28).view({n, 1, 28, 28}),
            torch::zeros({n}, torch::kLong)};
  }
};

bool has_several(const std::string& block) {
  return block.find("constructor: OptimWrapperConstructor") != block.npos;
}

}  // namespace

// The block with two optimizers trains on top of the DCGAN's config.
TEST(OpenMmlabPage, TheConfigOfTwoOptimizersTrains) {
  [[maybe_unused]] static const bool added =
      datasets().add("Images", [](Config&) { return std::make_shared<Images>(); });
  const TempFolder dir;
  dir.write("base.yaml", "_base_: " HALFSTEP_CONFIGS
                         "/dcgan.yaml\n"
                         R"(
model: {generator: {base_channels: 8}, discriminator: {base_channels: 8}}
train_dataloader: {batch_size: 2, dataset: {_delete_: true, type: Images}}
train_cfg: {max_epochs: 1}
custom_hooks: []
)");
  int64_t found = 0;
  for (const auto& block : yaml_blocks(read_file(HALFSTEP_DOCS "/coming-from-openmmlab.md"))) {
    if (!has_several(block)) continue;
    ++found;
    SCOPED_TRACE(block);
    dir.write("x.yaml", "_base_: base.yaml\n" + block);
    Trainer trainer(Config::load(dir.path() / "x.yaml"), {.work_dir = dir.path() / "run"});
    EXPECT_EQ(trainer.train(), Trainer::Outcome::finished);
    const auto& wrappers = trainer.parts().wrappers;
    ASSERT_EQ(wrappers.size(), 2);
    for (size_t i = 0; i < 2; ++i) {
      EXPECT_TRUE(wrappers[i].amp.enabled);
      EXPECT_EQ(wrappers[i].wrapper->accumulative_counts(), 8);
      EXPECT_EQ(wrappers[i].learning_rate(), wrappers[i].name == "generator" ? 1e-4 : 4e-4);
      EXPECT_EQ(trainer.counts(i).updates, 2);
    }
  }
  EXPECT_EQ(found, 1);
}

// Each block of the pages for those who come from elsewhere trains, on top of a small config of
// ours.
TEST(OpenMmlabPage, EachConfigTrains) {
  testing::register_blobs();
  const TempFolder dir;
  std::ofstream(dir.path() / "base.yaml") << testing::blobs_config;
  std::vector<std::string> blocks;
  for (const char* page :
       {"coming-from-openmmlab", "coming-from", "fp16-or-bf16", "loss-scaling"}) {
    const auto more = yaml_blocks(read_file(std::string(HALFSTEP_DOCS "/") + page + ".md"));
    EXPECT_FALSE(more.empty()) << page;
    blocks.insert(blocks.end(), more.begin(), more.end());
  }
  ASSERT_GE(blocks.size(), 12u);
  for (const auto& block : blocks) {
    if (has_several(block)) continue;
    SCOPED_TRACE(block);
    std::ofstream(dir.path() / "x.yaml") << "_base_: base.yaml\n" << block;
    Trainer trainer(Config::load(dir.path() / "x.yaml"), {.work_dir = dir.path() / "run"});
    EXPECT_TRUE(trainer.parts().amp().enabled);
    // In the device's bfloat16 "dynamic", or nothing, means none.
    const bool dynamic =
        block.find("loss_scale: dynamic") != block.npos || block.find("loss_scale:") == block.npos;
    EXPECT_EQ(trainer.parts().amp().scaling, trainer.parts().amp().dtype == c10::kHalf || !dynamic);
    EXPECT_EQ(trainer.train(), Trainer::Outcome::finished);
    EXPECT_EQ(trainer.progress().step, 12);
  }
}

}  // namespace halfstep::train
