#include "halfstep/train/loop/work_dir.h"

#include "halfstep/core/error.h"

#include <fstream>

#include "tests/support/errors.h"
#include "tests/support/temp_folder.h"
#include <gtest/gtest.h>

namespace halfstep::train {

namespace {

using halfstep::testing::TempFolder;

TEST(WorkDir, ListsCheckpointsOldestFirst) {
  const TempFolder dir;
  const WorkDir work(dir.path() / "a" / "b");
  EXPECT_TRUE(work.checkpoints().empty());
  for (const int64_t step : {100, 9, 20000000}) std::ofstream(work.checkpoint_file(step)) << "x";
  std::ofstream(work.root() / "checkpoints" / ".step_3.tmp") << "x";
  const auto files = work.checkpoints();
  ASSERT_EQ(files.size(), 3);
  EXPECT_EQ(files.front(), work.checkpoint_file(9));
  EXPECT_EQ(files.back(), work.checkpoint_file(20000000));
}

TEST(WorkDir, PutsEarlierRunsAsideOneByOne) {
  const TempFolder dir;
  WorkDir work(dir.path());
  EXPECT_FALSE(work.put_earlier_run_aside().has_value());
  for (int run = 1; run <= 2; ++run) {
    std::ofstream(work.checkpoint_file(run)) << "x";
    std::ofstream(work.log_file()) << "{}\n";
    EXPECT_EQ(work.put_earlier_run_aside(), dir.path() / ("previous_" + std::to_string(run)));
    EXPECT_TRUE(work.checkpoints().empty());
    EXPECT_FALSE(std::filesystem::exists(work.log_file()));
  }
}

TEST(WorkDir, ThatCantBeMadeIsAnError) {
  const TempFolder dir;
  std::ofstream(dir.path() / "file") << "x";
  EXPECT_ERROR(WorkDir(dir.path() / "file"), EnvironmentError, "[work dir]", "can't be made",
               "--work-dir");
}

}  // namespace

}  // namespace halfstep::train
