#include "halfstep/train/data/idx_file.h"

#include "halfstep/core/error.h"

#include <ATen/ATen.h>

#include "tests/support/errors.h"
#include "tests/support/temp_folder.h"
#include "tests/support/tolerance.h"
#include "tests/train/data/idx_bytes.h"

namespace halfstep::train {

using halfstep::testing::gzip;
using halfstep::testing::idx_header;
using halfstep::testing::TempFolder;

class IdxFile : public ::testing::TestWithParam<bool> {
 protected:
  // The file as it is, or gzipped.
  std::filesystem::path write(const std::string& bytes) const {
    return folder_.write("data", GetParam() ? gzip(bytes) : bytes);
  }
  TempFolder folder_;
  const std::string whole_ = idx_header({2, 3}) + std::string("\0\1\2\3\4\xff", 6);
};

TEST_P(IdxFile, Reads) {
  const at::Tensor data = read_idx(write(whole_));
  halfstep::testing::expect_same_bits(data,
                                      at::tensor({0, 1, 2, 3, 4, 255}).to(at::kByte).view({2, 3}));
}

TEST_P(IdxFile, ReadsMoreThanABuffer) {
  std::string bytes(1 << 20, '\0');
  uint32_t state = 1;
  for (char& byte : bytes) byte = static_cast<char>((state = state * 1664525 + 1013904223) >> 24);
  const at::Tensor data = read_idx(write(idx_header({1u << 20}) + bytes));
  EXPECT_EQ(std::string(static_cast<const char*>(data.const_data_ptr()), data.nbytes()), bytes);
}

TEST_P(IdxFile, RefusesSizesThatDoNotMatch) {
  EXPECT_ERROR(read_idx(write(whole_.substr(0, 17))), EnvironmentError, "[IDX]",
               "must have 18 bytes", "17", "cut off");
  EXPECT_ERROR(read_idx(write(whole_ + "x")), EnvironmentError, "[IDX]", "must have 18 bytes",
               "has more");
  EXPECT_ERROR(read_idx(write(whole_.substr(0, 9))), EnvironmentError, "header of 12 bytes",
               "has only 9 bytes");
  EXPECT_ERROR(read_idx(write("")), EnvironmentError, "at least 4 bytes");
  EXPECT_ERROR(read_idx(write(whole_), 5), EnvironmentError, "at most 5 bytes of data",
               "header says 6");
}

TEST_P(IdxFile, AsksForNoMemoryAHeaderOnlyClaims) {
  const auto file = write(idx_header({1u << 30, 1u << 30}));
  EXPECT_ERROR(read_idx(file), EnvironmentError, "at most 4294967296 bytes of data");
  EXPECT_ERROR(read_idx(file, ~uint64_t{0}), EnvironmentError,
               "must have 1152921504606846988 bytes", "has at most");
}

INSTANTIATE_TEST_SUITE_P(Packed, IdxFile, ::testing::Bool(),
                         [](const auto& param) { return param.param ? "gzip" : "plain"; });

TEST(IdxGzip, RefusesDamage) {
  const TempFolder folder;
  const std::string packed = gzip(idx_header({4, 1000}) + std::string(4000, 'a'));
  for (size_t cut = 3; cut < packed.size(); ++cut) {
    EXPECT_ERROR(read_idx(folder.write("a", packed.substr(0, cut))), EnvironmentError, "cut off");
  }
  EXPECT_ERROR(read_idx(folder.write("a", packed + "garbage")), EnvironmentError, "[gzip]",
               "incorrect header check");
  std::string flipped = packed;
  flipped[flipped.size() - 6] ^= 1;
  EXPECT_ERROR(read_idx(folder.write("a", flipped)), EnvironmentError, "incorrect data check",
               "get it again");
}

TEST(IdxGzip, ReadsSeveralMembers) {
  const TempFolder folder;
  const auto file = folder.write("a", gzip(idx_header({5}) + "ab") + gzip("c") + gzip("de"));
  EXPECT_EQ(read_idx(file).sum().item<int64_t>(), 'a' + 'b' + 'c' + 'd' + 'e');
  EXPECT_ERROR(read_idx(folder.write("b", gzip(idx_header({5}) + "ab") + gzip("cdef"))),
               EnvironmentError, "has more");
}

TEST(IdxGzip, ABombIsRefusedUnpackedOrNot) {
  const TempFolder folder;
  // 64 MiB of zeros in some 60 kB behind a header that claims 10 bytes, then one that claims them.
  const std::string zeros(64 << 20, '\0');
  const auto hidden = folder.write("a", gzip(idx_header({10}) + zeros));
  EXPECT_LT(std::filesystem::file_size(hidden), 100'000u);
  EXPECT_ERROR(read_idx(hidden), EnvironmentError, "must have 18 bytes", "has more");
  const auto declared = folder.write("b", gzip(idx_header({64u << 20}) + zeros));
  EXPECT_ERROR(read_idx(declared, 1 << 20), EnvironmentError, "at most 1048576 bytes of data");
}

TEST(IdxFileErrors, SayWhichFile) {
  const TempFolder folder;
  EXPECT_ERROR(read_idx(folder.path() / "none"), EnvironmentError, "none", "an IDX file",
               "No such file", "check the path");
  EXPECT_ERROR(read_idx(folder.path()), EnvironmentError, "no regular file");
}

}  // namespace halfstep::train
