#include "halfstep/train/weights/zip_directory.h"

#include "halfstep/core/error.h"

#include "tests/support/errors.h"
#include "tests/train/weights/zip_bytes.h"

namespace halfstep::train {
namespace {

using halfstep::testing::little;
using halfstep::testing::source_of;
using halfstep::testing::zip_bytes;

const std::vector<std::pair<std::string, std::string>> kFiles{
    {"a/data.pkl", "hello"}, {"a/data/0", std::string(300, 'x')}, {"a/empty", ""}};

std::string changed(std::string bytes, const std::string& where, size_t at, const std::string& to) {
  return bytes.replace(bytes.find(where) + at, to.size(), to);
}

}  // namespace

TEST(ZipDirectory, FindsStoredEntriesInBothForms) {
  for (const bool zip64 : {false, true})
    for (const auto* comment : {"", "a comment PK\x05\x06 that looks like an end"}) {
      const auto bytes = zip_bytes(kFiles, zip64, comment);
      const auto entries = read_zip_directory(source_of(bytes));
      ASSERT_EQ(entries.size(), kFiles.size());
      for (const auto& [name, data] : kFiles) {
        const auto& entry = entries.at(name);
        EXPECT_EQ(bytes.substr(entry.offset, entry.size), data);
      }
      EXPECT_EQ(entries.at("a/data.pkl").crc, 0x3610a686u);
    }
  EXPECT_TRUE(read_zip_directory(source_of(zip_bytes({}))).empty());
}

TEST(ZipDirectory, RefusesWhatIsNoArchiveOrWasCutOff) {
  for (const bool zip64 : {false, true}) {
    const auto bytes = zip_bytes(kFiles, zip64);
    for (size_t size = 0; size < bytes.size(); ++size) {
      const auto cut = bytes.substr(0, size);
      EXPECT_ERROR(read_zip_directory(source_of(cut)), EnvironmentError,
                   "[zip] input: ", "get it again");
    }
  }
  const std::string text(100, 'x');
  EXPECT_ERROR(read_zip_directory(source_of(text)), EnvironmentError,
               "must end with its directory, but there is none (it may have been cut off)");
}

TEST(ZipDirectory, RefusesCompressedEncryptedDoubleAndOverlappingEntries) {
  const auto bytes = zip_bytes(kFiles);
  const auto compressed = changed(bytes, "PK\x01\x02", 10, little(8, 2));
  EXPECT_ERROR(read_zip_directory(source_of(compressed)), EnvironmentError,
               "'a/data.pkl' must be stored as it is, but is compressed", "zip -0");
  const auto encrypted = changed(bytes, "PK\x01\x02", 8, little(1, 2));
  EXPECT_ERROR(read_zip_directory(source_of(encrypted)), EnvironmentError, "but is encrypted");
  const auto twice = zip_bytes({{"a", "1"}, {"a", "2"}});
  EXPECT_ERROR(read_zip_directory(source_of(twice)), EnvironmentError, "'a' is given twice");
  // The directory's first entry gets the second one's place, too.
  const auto second = bytes.find("PK\x03\x04", 4);
  const auto overlap = changed(bytes, "PK\x01\x02", 42, little(second, 4));
  EXPECT_ERROR(read_zip_directory(source_of(overlap)), EnvironmentError,
               "entries must not overlap, but two do at byte");
}

TEST(ZipDirectory, AsksForNoMemoryASizeOnlyClaims) {
  const auto bytes = zip_bytes(kFiles);
  const auto long_directory = changed(bytes, "PK\x05\x06", 12, little(0x7fffffff, 4));
  EXPECT_ERROR(read_zip_directory(source_of(long_directory)), EnvironmentError,
               "the directory must have at most");
  const auto far = changed(bytes, "PK\x05\x06", 16, little(0xfffffff0, 4));
  EXPECT_ERROR(read_zip_directory(source_of(far)), EnvironmentError, "the file has only");
  const auto many = changed(bytes, "PK\x05\x06", 10, little(0xffff, 2));
  EXPECT_ERROR(read_zip_directory(source_of(many)), EnvironmentError,
               "must have room for its entries");
  const auto beyond =
      changed(changed(bytes, "PK\x01\x02", 20, little(5000, 4)), "PK\x01\x02", 24, little(5000, 4));
  EXPECT_ERROR(read_zip_directory(source_of(beyond)), EnvironmentError,
               "'a/data.pkl' must lie before the directory");
}

}  // namespace halfstep::train
