#include "halfstep/train/hooks/json_log.h"

#include "halfstep/core/error.h"

#include "tests/support/errors.h"
#include "tests/support/temp_folder.h"
#include <gtest/gtest.h>

namespace halfstep::train {

namespace {

using halfstep::testing::read_file;
using halfstep::testing::TempFolder;

TEST(JsonLog, AppendsLines) {
  const TempFolder dir;
  JsonLog(dir.path() / "log.jsonl").write({{"step", 1}});
  JsonLog(dir.path() / "log.jsonl").write({{"step", 2}, {"loss", 0.5}});
  EXPECT_EQ(read_file(dir.path() / "log.jsonl"), "{\"step\":1}\n{\"step\":2,\"loss\":0.5}\n");
}

TEST(JsonLog, StartsAFreshLineAfterATornOne) {
  const TempFolder dir;
  std::ofstream(dir.path() / "log.jsonl") << "{\"step\":1}\n{\"st";
  JsonLog(dir.path() / "log.jsonl").write({{"step", 2}});
  EXPECT_EQ(read_file(dir.path() / "log.jsonl"), "{\"step\":1}\n{\"st\n{\"step\":2}\n");
}

TEST(JsonLog, WritesEachLineAtOnce) {
  const TempFolder dir;
  JsonLog log(dir.path() / "log.jsonl");
  log.write({{"step", 1}});
  EXPECT_EQ(read_file(dir.path() / "log.jsonl"), "{\"step\":1}\n");
}

TEST(JsonLog, UnwritableFileIsAnError) {
  const TempFolder dir;
  EXPECT_ERROR(JsonLog(dir.path() / "missing" / "log.jsonl"), EnvironmentError, "[log]",
               "must be writable", "--work-dir");
}

TEST(JsonLog, FullDiskIsAnError) {
  JsonLog log("/dev/full");
  EXPECT_ERROR(log.write({{"step", 1}}), EnvironmentError, "[log]", "writing failed", "--resume");
}

}  // namespace

}  // namespace halfstep::train
