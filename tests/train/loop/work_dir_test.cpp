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
  for (const int64_t step : {100, 100000000, 9, 99999999})
    std::ofstream(work.checkpoint_file(step)) << "x";
  for (const char* foreign :
       {".step_3.tmp", "step_best.safetensors", "step_.safetensors", "step_-5.safetensors",
        "step_7.safetensors.bak", "my_step_7.safetensors", "step_99999999999999999999.safetensors"})
    std::ofstream(work.checkpoint_folder() / foreign) << "x";
  EXPECT_EQ(work.checkpoints(),
            (std::vector{work.checkpoint_file(9), work.checkpoint_file(100),
                         work.checkpoint_file(99999999), work.checkpoint_file(100000000)}));
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

TEST(WorkDir, ALogWithoutCheckpointsIsNoEarlierRun) {
  const TempFolder dir;
  WorkDir work(dir.path());
  std::ofstream(work.log_file()) << "{}\n";
  EXPECT_FALSE(work.put_earlier_run_aside().has_value());
  EXPECT_TRUE(std::filesystem::exists(work.log_file()));
}

TEST(WorkDir, PutsLaterCheckpointsAsideAlone) {
  const TempFolder dir;
  WorkDir work(dir.path());
  for (const int64_t step : {9, 10, 100}) std::ofstream(work.checkpoint_file(step)) << "x";
  std::ofstream(work.log_file()) << "{}\n";
  EXPECT_EQ(work.put_later_checkpoints_aside(10), dir.path() / "previous_1");
  EXPECT_EQ(work.checkpoints(), (std::vector{work.checkpoint_file(9), work.checkpoint_file(10)}));
  EXPECT_EQ(list_checkpoints(dir.path() / "previous_1").size(), 1);
  EXPECT_TRUE(std::filesystem::exists(work.log_file()));
  EXPECT_FALSE(work.put_later_checkpoints_aside(10).has_value());
}

TEST(WorkDir, BelongsToOneRunAtATime) {
  const TempFolder dir;
  {
    const WorkDir first(dir.path());
    EXPECT_ERROR(WorkDir(dir.path()), EnvironmentError, "[work dir]",
                 "must belong to one run at a time", "another process", "--work-dir");
  }
  const WorkDir after(dir.path());
}

TEST(WorkDir, ThatCantBeListedIsAnError) {
  const TempFolder dir;
  dir.write("checkpoints", "x");
  EXPECT_ERROR(list_checkpoints(dir.path()), EnvironmentError, "[work dir]",
               "must be a folder that can be read", "Not a directory");
}

TEST(WorkDir, ThatCantBeMadeIsAnError) {
  const TempFolder dir;
  std::ofstream(dir.path() / "file") << "x";
  EXPECT_ERROR(WorkDir(dir.path() / "file"), EnvironmentError, "[work dir]", "can't be made",
               "--work-dir");
}

}  // namespace

}  // namespace halfstep::train
