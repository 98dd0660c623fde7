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

}  // namespace

// Each block of the page trains, on top of a small config of ours.
TEST(OpenMmlabPage, EachConfigTrains) {
  testing::register_blobs();
  const TempFolder dir;
  std::ofstream(dir.path() / "base.yaml") << testing::blobs_config;
  const auto blocks = yaml_blocks(read_file(HALFSTEP_DOCS "/coming-from-openmmlab.md"));
  ASSERT_GE(blocks.size(), 7u);
  for (const auto& block : blocks) {
    SCOPED_TRACE(block);
    std::ofstream(dir.path() / "x.yaml") << "_base_: base.yaml\n" << block;
    Trainer trainer(Config::load(dir.path() / "x.yaml"), {.work_dir = dir.path() / "run"});
    EXPECT_TRUE(trainer.parts().amp().enabled);
    // In the device's bfloat16 "dynamic" means none.
    const bool dynamic = block.find("loss_scale: dynamic") != block.npos;
    EXPECT_EQ(trainer.parts().amp().scaling, trainer.parts().amp().dtype == c10::kHalf || !dynamic);
    EXPECT_EQ(trainer.train(), Trainer::Outcome::finished);
    EXPECT_EQ(trainer.progress().step, 12);
  }
}

}  // namespace halfstep::train
