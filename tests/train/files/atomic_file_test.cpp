#include "halfstep/train/files/atomic_file.h"

#include "halfstep/core/error.h"

#include <csignal>

#include "tests/support/errors.h"
#include "tests/support/temp_folder.h"
#include "tests/train/files/faults.h"
#include <sys/resource.h>
#include <unistd.h>

namespace halfstep::train {

using halfstep::testing::FaultScope;
using halfstep::testing::is_fault_point;
using halfstep::testing::read_file;
using halfstep::testing::TempFolder;
using ::testing::ElementsAre;

TEST(AtomicFile, WritesAndReplaces) {
  const TempFolder folder;
  const auto file = folder.path() / "a.bin";
  write_file(file, "old");
  EXPECT_EQ(read_file(file), "old");
  AtomicFile out(file, 6);
  out.write("new", 3);
  EXPECT_EQ(read_file(file), "old");
  out.write("est", 3);
  out.commit();
  EXPECT_EQ(read_file(file), "newest");
  write_file(file, "");
  EXPECT_EQ(read_file(file), "");
  EXPECT_THAT(folder.names(), ElementsAre("a.bin"));
}

TEST(AtomicFile, TakesAFileOfTheWorkingFolder) {
  const TempFolder folder;
  const auto before = std::filesystem::current_path();
  std::filesystem::current_path(folder.path());
  write_file("bare", "x");
  std::filesystem::current_path(before);
  EXPECT_EQ(read_file(folder.path() / "bare"), "x");
}

TEST(AtomicFile, DropsWhatWasNotCommitted) {
  const TempFolder folder;
  {
    AtomicFile out(folder.path() / "a.bin", 4);
    out.write("ab", 2);
    EXPECT_EQ(folder.names().size(), 1u);
    EXPECT_ERROR(out.commit(), UsageError, "[AtomicFile::commit]", "all 4 bytes", "but got 2");
    EXPECT_ERROR(out.write("abc", 3), UsageError, "[AtomicFile::write]", "at most 4", "but got 5");
  }
  EXPECT_THAT(folder.names(), ElementsAre());
}

TEST(AtomicFile, ReachesEachFaultPointInOrder) {
  static std::vector<std::string> reached;
  reached.clear();
  const TempFolder folder;
  {
    const FaultScope scope("", [](const char* point) { reached.emplace_back(point); });
    write_file(folder.path() / "a.bin", "abcd");
    AtomicFile out(folder.path() / "b.bin", 3);
    for (const char* byte : {"a", "b", "c"}) out.write(byte, 1);
    out.commit();
  }
  write_file(folder.path() / "a.bin", "unhooked");
  std::vector<std::string> expected(halfstep::testing::kFaultPoints.begin(),
                                    halfstep::testing::kFaultPoints.end());
  expected.insert(expected.end(), halfstep::testing::kFaultPoints.begin(),
                  halfstep::testing::kFaultPoints.end());
  EXPECT_EQ(reached, expected);
}

TEST(AtomicFile, HalfIsOnDiskAtHalfWritten) {
  static std::string half;
  static std::filesystem::path place;
  half.clear();
  const TempFolder folder;
  place = folder.path();
  const FaultScope scope("half_written", [](const char* point) {
    if (!is_fault_point(point)) return;
    for (const auto& entry : std::filesystem::directory_iterator(place))
      half = read_file(entry.path());
  });
  write_file(folder.path() / "a.bin", "abcdefgh");
  EXPECT_EQ(half, "abcd");
}

TEST(AtomicFile, KeepsTheOldFileOnAFullDisk) {
  const TempFolder folder;
  const auto file = folder.write("a.bin", "old");
  // Writing to /dev/full fails as on a full disk.
  const FaultScope scope("begin", [](const char* point) {
    if (is_fault_point(point)) halfstep::testing::replace_temporary("/dev/full", O_WRONLY);
  });
  EXPECT_ERROR(write_file(file, "newer"), EnvironmentError, "[AtomicFile]", file.c_str(),
               "No space left on device", "of 5 bytes", "free some room on the disk of",
               "is unchanged");
  EXPECT_EQ(read_file(file), "old");
  EXPECT_THAT(folder.names(), ElementsAre("a.bin"));
}

TEST(AtomicFile, KeepsTheOldFileWhenSyncFails) {
  const TempFolder folder;
  const auto file = folder.write("a.bin", "old");
  const FaultScope scope("written", [](const char* point) {
    if (is_fault_point(point)) halfstep::testing::replace_temporary("/dev/null", O_WRONLY);
  });
  EXPECT_ERROR(write_file(file, "newer"), EnvironmentError, "must be synced to the disk",
               "after 5 of 5 bytes", "check the disk");
  EXPECT_EQ(read_file(file), "old");
  EXPECT_THAT(folder.names(), ElementsAre("a.bin"));
}

TEST(AtomicFile, KeepsTheOldFileAtTheFileSizeLimit) {
  const TempFolder folder;
  const auto file = folder.write("a.bin", "old");
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{1000, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const std::string big(4096, 'x');
  EXPECT_ERROR(write_file(file, big), EnvironmentError, "File too large",
               "after 1000 of 4096 bytes", "ulimit -f");
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(read_file(file), "old");
  EXPECT_THAT(folder.names(), ElementsAre("a.bin"));
  write_file(file, big);
  EXPECT_EQ(read_file(file), big);
}

TEST(AtomicFile, NamesWhatIsWrongWithAFolder) {
  const TempFolder folder;
  const auto file = folder.write("file", "");
  EXPECT_ERROR(write_file(file / "a.bin", "x"), EnvironmentError, "Not a directory",
               "make the folder");
  EXPECT_ERROR(write_file(folder.path() / "none" / "a.bin", "x"), EnvironmentError,
               "No such file or directory", "make the folder");
  std::filesystem::create_directory(folder.path() / "folder");
  EXPECT_ERROR(write_file(folder.path() / "folder", "x"), EnvironmentError,
               "must be put in its place", "Is a directory", "choose another name");
  EXPECT_ERROR(write_file(folder.path() / std::string(300, 'n'), "x"), EnvironmentError,
               "File name too long", "shorter name");
  EXPECT_THAT(folder.names(), ElementsAre("file", "folder"));
}

TEST(AtomicFile, NamesAFolderThatIsNotWritable) {
  const TempFolder folder;
  std::filesystem::permissions(folder.path(), std::filesystem::perms(0555));
  // Root may write anywhere, so it becomes somebody else for a moment.
  const uid_t user = ::geteuid();
  constexpr uid_t nobody = 65534;
  if (user == 0) {
    ASSERT_EQ(::seteuid(nobody), 0);
  }
  EXPECT_ERROR(write_file(folder.path() / "a.bin", "x"), EnvironmentError, "Permission denied",
               "writable or choose another folder");
  ASSERT_EQ(::seteuid(user), 0);
  std::filesystem::permissions(folder.path(), std::filesystem::perms(0755));
}

TEST(AtomicFile, CleansUpWhenTheWriterThrows) {
  const TempFolder folder;
  const auto file = folder.write("a.bin", "old");
  for (const char* point : {"begin", "half_written", "written", "synced"}) {
    const FaultScope scope(point, [](const char* reached) {
      if (is_fault_point(reached)) throw std::runtime_error("stopped");
    });
    EXPECT_THROW(write_file(file, "newer"), std::runtime_error) << point;
    EXPECT_EQ(read_file(file), "old") << point;
    EXPECT_THAT(folder.names(), ElementsAre("a.bin")) << point;
  }
}

TEST(AtomicFile, TwoWritersDoNotDisturbEachOther) {
  const TempFolder folder;
  const auto file = folder.path() / "a.bin";
  AtomicFile first(file, 5);
  first.write("fir", 3);
  AtomicFile second(file, 6);
  second.write("second", 6);
  second.commit();
  EXPECT_EQ(read_file(file), "second");
  first.write("st", 2);
  first.commit();
  EXPECT_EQ(read_file(file), "first");
  EXPECT_THAT(folder.names(), ElementsAre("a.bin"));
}

TEST(AtomicFileProcess, AKillAtAnyPointLeavesTheOldOrTheNewFile) {
  for (const char* point : halfstep::testing::kFaultPoints) {
    SCOPED_TRACE(point);
    const TempFolder folder;
    const auto file = folder.path() / "a.bin";
    write_file(file, "the old content");
    ASSERT_TRUE(halfstep::testing::killed_at(point, [&] { write_file(file, "the new one"); }));
    const bool renamed = std::string(point) == "renamed" || std::string(point) == "done";
    EXPECT_EQ(read_file(file), renamed ? "the new one" : "the old content");
    EXPECT_EQ(folder.names().size(), renamed ? 1u : 2u);
    // The next writer removes what the dead one left.
    write_file(folder.path() / "b.bin", "b");
    EXPECT_THAT(folder.names(), ElementsAre("a.bin", "b.bin"));
  }
}

}  // namespace halfstep::train
