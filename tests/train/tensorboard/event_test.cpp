// TensorBoard's file format where its own reader is not at hand: TensorboardHook's files are read
// by it in tests/train/process/tensorboard_test.py.
#include "halfstep/train/tensorboard/event.h"

#include "halfstep/core/error.h"
#include "halfstep/train/tensorboard/event_file.h"

#include <string>

#include "tests/support/errors.h"
#include "tests/support/temp_folder.h"
#include <gtest/gtest.h>

namespace halfstep::train {
namespace {

using halfstep::testing::TempFolder;

// The first record that PyTorch's SummaryWriter writes at time 0: length 24, checksums, fields 1
// and 3.
TEST(TensorboardEvent, RecordIsTheFormats) {
  const std::string event(
      "\x09\0\0\0\0\0\0\xf0\x3f\x1a\x0d"
      "brain.Event:2",
      24);
  EXPECT_EQ(detail::version_event(1.0), event);
  const auto record = detail::record(event);
  ASSERT_EQ(record.size(), 8 + 4 + 24 + 4);
  EXPECT_EQ(record.substr(0, 8), std::string("\x18\0\0\0\0\0\0\0", 8));
  EXPECT_EQ(record.substr(8, 4), "\xa3\x7f\x4b\x22");  // of every file's first record
  EXPECT_EQ(record.substr(12, 24), event);
}

TEST(TensorboardEvent, FilesOfOneProcessHaveNamesOfTheirOwn) {
  const TempFolder dir;
  EventFile first(dir.path() / "vis_data");
  EventFile second(dir.path() / "vis_data");
  EXPECT_NE(first.path(), second.path());
  EXPECT_TRUE(first.path().filename().string().starts_with("events.out.tfevents."));
  const auto before = std::filesystem::file_size(first.path());
  first.add_scalars(3, {{"train/loss", 0.5}});
  EXPECT_GT(std::filesystem::file_size(first.path()), before)
      << "an event must be in the file at once";
}

TEST(TensorboardEvent, FolderThatCannotBeMadeIsAnError) {
  const TempFolder dir;
  dir.write("file", "");
  EXPECT_ERROR(EventFile(dir.path() / "file"), EnvironmentError, "[TensorBoard]",
               "must be writable", "--work-dir");
}

}  // namespace
}  // namespace halfstep::train
