#include "halfstep/train/data/idx.h"

#include "halfstep/core/error.h"

#include "tests/support/errors.h"
#include "tests/train/data/idx_bytes.h"

namespace halfstep::train {

using halfstep::testing::idx_header;

TEST(IdxHeader, ReadsShapes) {
  const IdxHeader header = parse_idx_header(idx_header({60000, 28, 28}) + "rest", "f");
  EXPECT_EQ(header.shape, (std::vector<int64_t>{60000, 28, 28}));
  EXPECT_EQ(header.header_size, 16u);
  EXPECT_EQ(header.data_size, 60000u * 28 * 28);
  EXPECT_EQ(parse_idx_header(idx_header(std::vector<uint32_t>(255, 1)), "f").header_size,
            kMaxIdxHeader);
}

TEST(IdxHeader, RefusesOtherFiles) {
  EXPECT_ERROR(parse_idx_header("", "f"), EnvironmentError, "[IDX] f must have at least 4 bytes",
               "but has 0", "get it again");
  EXPECT_ERROR(parse_idx_header("\x89PNG\r\n", "f"), EnvironmentError, "two zero bytes",
               "137 and 80");
  EXPECT_ERROR(parse_idx_header(std::string("\0\0\x0d\1\0\0\0\1", 8), "f"), EnvironmentError,
               "unsigned bytes (type 8), but has type 13");
  EXPECT_ERROR(parse_idx_header(std::string("\0\0\x08\0", 4), "f"), EnvironmentError,
               "at least one dimension");
  EXPECT_ERROR(parse_idx_header(idx_header({2, 3}).substr(0, 11), "f"), EnvironmentError,
               "a header of 12 bytes for its 2 dimensions, but has only 11");
  EXPECT_ERROR(parse_idx_header(idx_header({5, 0}), "f"), EnvironmentError, "size 1 is 0");
  EXPECT_ERROR(parse_idx_header(idx_header({1u << 31, 1u << 31, 2}), "f"), EnvironmentError,
               "product is below 2^63, but size 2 is 2");
}

}  // namespace halfstep::train
