#include "halfstep/train/files/checkpoint.h"

#include "halfstep/core/error.h"

#include <cerrno>
#include <limits>

#include <ATen/ATen.h>

#include "tests/support/errors.h"
#include "tests/support/temp_folder.h"
#include "tests/support/tolerance.h"
#include "tests/train/files/faults.h"
#include <sys/mount.h>

namespace halfstep::train {
namespace {

using halfstep::testing::expect_same_bits;
using halfstep::testing::read_file;
using halfstep::testing::TempFolder;

Checkpoint sample(int64_t step, int64_t size = 1000) {
  Checkpoint checkpoint;
  checkpoint.tensors["model.weight"] = at::full({size}, static_cast<double>(step));
  checkpoint.state = {{"step", step}, {"lr", 0.1}, {"tiny", 5e-324}, {"name", "h\xc3\xa9"}};
  return checkpoint;
}

// A checkpoint whose metadata are `document`.
std::filesystem::path with_document(const TempFolder& folder, const std::string& document) {
  const auto file = folder.path() / "made";
  save_safetensors(file, {{{"model.weight", at::ones({2})}}, {{"halfstep", document}}});
  return file;
}

}  // namespace

TEST(Checkpoint, RoundTripIsExact) {
  const TempFolder folder;
  const auto file = folder.path() / "a.safetensors";
  const Checkpoint saved = sample(7);
  saved.save(file);
  const Checkpoint read = Checkpoint::load(file);
  EXPECT_EQ(read.state, saved.state);
  EXPECT_EQ(read.state["tiny"].get<double>(), 5e-324);
  expect_same_bits(read.tensors.at("model.weight"), saved.tensors.at("model.weight"));
  read.save(folder.path() / "b.safetensors");
  EXPECT_EQ(read_file(file), read_file(folder.path() / "b.safetensors"));
}

TEST(Checkpoint, RefusesNumbersThatJsonLacks) {
  const TempFolder folder;
  Checkpoint checkpoint = sample(1);
  checkpoint.state["best"] = {{"loss", {1.0, std::numeric_limits<double>::infinity()}}};
  EXPECT_ERROR(checkpoint.save(folder.path() / "a"), UsageError, "[checkpoint]", "must be finite",
               "keep it in a tensor");
  checkpoint.state["best"] = "\xff";
  EXPECT_ERROR(checkpoint.save(folder.path() / "a"), UsageError, "must be UTF-8");
  EXPECT_TRUE(folder.names().empty());
}

TEST(Checkpoint, SaysWhatIsWrongWithAFile) {
  const TempFolder folder;
  EXPECT_ERROR(Checkpoint::load(folder.path() / "none"), EnvironmentError, "[checkpoint]", "none",
               "there is no such file", "check the path");
  EXPECT_ERROR(Checkpoint::load(folder.path()), EnvironmentError, "is no regular file");
  EXPECT_ERROR(Checkpoint::load(folder.write("text", "epoch: 3, loss: 0.2, step: 4")),
               EnvironmentError, "text", "not a safetensors file");
  EXPECT_ERROR(Checkpoint::load(folder.write(
                   "zip", std::string("PK\3\4\0\0\0\0\0\0", 10) + std::string(100, '\0'))),
               EnvironmentError, "the header must have 67324752 bytes, but the file has only 110");

  sample(3).save(folder.path() / "whole");
  const std::string bytes = read_file(folder.path() / "whole");
  folder.write("half", bytes.substr(0, bytes.size() / 2));
  EXPECT_ERROR(Checkpoint::load(folder.path() / "half"), EnvironmentError, "half", "it was cut off",
               "get it again");
}

TEST(Checkpoint, RefusesAnotherProgramsFile) {
  const TempFolder folder;
  const auto file = folder.path() / "a";
  save_safetensors(file, {{{"weight", at::ones({2})}}, {{"format", "pt"}}});
  EXPECT_ERROR(Checkpoint::load(file), EnvironmentError, "must have halfstep's state",
               "another program's", "give a checkpoint of halfstep");
}

TEST(Checkpoint, RefusesOtherFormatVersions) {
  const TempFolder folder;
  EXPECT_ERROR(Checkpoint::load(with_document(
                   folder, R"({"format_version": 2, "halfstep": "9.1.0", "state": {}})")),
               EnvironmentError, "format version from 1 to 1, but got 2",
               "written by halfstep \"9.1.0\"", "use a halfstep at least that new");
  EXPECT_ERROR(Checkpoint::load(with_document(folder, R"({"format_version": 0, "state": {}})")),
               EnvironmentError, "but got 0");
  EXPECT_ERROR(Checkpoint::load(with_document(folder, R"({"format_version": "1"})")),
               EnvironmentError, "can't be read", "damaged");
  EXPECT_ERROR(Checkpoint::load(with_document(folder, "{")), EnvironmentError, "can't be read");
  EXPECT_ERROR(Checkpoint::load(with_document(folder, R"({"format_version": 1})")),
               EnvironmentError, "must have a state");
  EXPECT_TRUE(Checkpoint::load(with_document(folder, R"({"format_version": 1, "state": {}})"))
                  .state.empty());
}

TEST(CheckpointProcess, AFullDiskKeepsTheLastGoodOne) {
  const TempFolder folder;
  const auto disk = folder.path() / "disk";
  std::filesystem::create_directory(disk);
  if (::mount("tmpfs", disk.c_str(), "tmpfs", 0, "size=1m") != 0)
    GTEST_SKIP() << "SKIPPED, NOTHING WAS TESTED: mounting a small disk needs root ("
                 << std::strerror(errno) << ")";
  const auto file = disk / "last.safetensors";
  sample(1, 150'000).save(file);
  EXPECT_ERROR(sample(2, 150'000).save(file), EnvironmentError, "last.safetensors",
               "No space left on device", "free some room", "is unchanged");
  EXPECT_EQ(Checkpoint::load(file).state["step"], 1);
  size_t files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(disk)) files += entry.exists();
  EXPECT_EQ(files, 1u);
  sample(3, 50'000).save(file);
  EXPECT_EQ(Checkpoint::load(file).state["step"], 3);
  ::umount2(disk.c_str(), MNT_DETACH);
}

TEST(CheckpointProcess, AKillAtAnyPointLeavesAWholeOne) {
  const TempFolder folder;
  const auto file = folder.path() / "last.safetensors";
  for (const char* point : halfstep::testing::kFaultPoints) {
    SCOPED_TRACE(point);
    sample(1).save(file);
    const Checkpoint next = sample(2);
    ASSERT_TRUE(halfstep::testing::killed_at(point, [&] { next.save(file); }));
    const bool renamed = std::string(point) == "renamed" || std::string(point) == "done";
    const Checkpoint found = Checkpoint::load(file);
    EXPECT_EQ(found.state["step"], renamed ? 2 : 1);
    expect_same_bits(found.tensors.at("model.weight"),
                     sample(renamed ? 2 : 1).tensors.at("model.weight"));
  }
}

}  // namespace halfstep::train
