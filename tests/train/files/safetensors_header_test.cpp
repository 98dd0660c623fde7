#include "halfstep/train/files/safetensors_header.h"

#include "halfstep/core/error.h"

#include "tests/support/errors.h"

namespace halfstep::train {
namespace {

SafetensorsHeader parse(const std::string& json, uint64_t data_size) {
  return parse_safetensors_header(json, 8 + json.size() + data_size, "f");
}

std::string one(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return R"({"a":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets +
         "}}";
}

}  // namespace

TEST(SafetensorsHeader, ReadsEntriesAndMetadata) {
  const auto header = parse(R"({"__metadata__":{"k":"v"},)"
                            R"("b":{"dtype":"F32","shape":[2,3],"data_offsets":[2,26]},)"
                            R"("a":{"shape":[],"data_offsets":[0,2],"dtype":"BF16"},)"
                            R"("e":{"dtype":"I64","shape":[0,7],"data_offsets":[26,26]}}   )",
                            26);
  EXPECT_EQ(header.metadata.at("k"), "v");
  ASSERT_EQ(header.entries.size(), 3u);
  EXPECT_EQ(header.entries[0].name, "a");
  EXPECT_TRUE(header.entries[0].shape.empty());
  EXPECT_EQ(header.entries[1].dtype, SafetensorsDtype::F32);
  EXPECT_EQ(header.entries[1].shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(header.entries[2].end, 26u);
}

TEST(SafetensorsHeader, WritesWhatItReads) {
  SafetensorsHeader header;
  header.metadata = {{"k", "\"quoted\" \xc3\xa9"}};
  for (int i = 0; i < 15; ++i) {
    SafetensorsEntry entry;
    entry.name = "t" + std::to_string(i);
    entry.dtype = static_cast<SafetensorsDtype>(i);
    entry.shape = {3};
    entry.begin = header.entries.empty() ? 0 : header.entries.back().end;
    entry.end = entry.begin + 3 * size_of(entry.dtype);
    header.entries.push_back(entry);
  }
  const std::string bytes = write_safetensors_header(header);
  EXPECT_EQ(bytes.size() % 8, 0u);
  const uint64_t size = bytes.size() + header.entries.back().end;
  const uint64_t length = parse_safetensors_length(bytes, size, "f");
  EXPECT_EQ(length, bytes.size() - 8);
  const auto read = parse_safetensors_header(bytes.substr(8), size, "f");
  EXPECT_EQ(read.metadata, header.metadata);
  ASSERT_EQ(read.entries.size(), header.entries.size());
  for (size_t i = 0; i < read.entries.size(); ++i) {
    EXPECT_EQ(read.entries[i].name, header.entries[i].name);
    EXPECT_EQ(read.entries[i].dtype, header.entries[i].dtype);
    EXPECT_EQ(read.entries[i].begin, header.entries[i].begin);
  }
  EXPECT_EQ(write_safetensors_header(read), bytes);
}

TEST(SafetensorsHeader, RefusesToWriteWhatItCouldNotRead) {
  SafetensorsHeader header;
  header.metadata = {{"k", "\xff"}};
  EXPECT_ERROR(write_safetensors_header(header), UsageError, "[safetensors]", "UTF-8");
  header.metadata.clear();
  header.entries.resize(1);
  header.entries[0].name = "__metadata__";
  EXPECT_ERROR(write_safetensors_header(header), UsageError, "not __metadata__");
}

TEST(SafetensorsHeader, ChecksTheLength) {
  const auto length = [](std::string bytes, uint64_t size) {
    return parse_safetensors_length(bytes, size, "f");
  };
  const std::string two("\2\0\0\0\0\0\0\0{}", 10);
  EXPECT_EQ(length(two, 10), 2u);
  EXPECT_ERROR(length("", 0), EnvironmentError, "[safetensors] f:", "at least 10 bytes",
               "but got 0");
  EXPECT_ERROR(length(std::string("\1\0\0\0\0\0\0\0{}", 10), 10), EnvironmentError,
               "from 2 to 100000000, but got 1");
  EXPECT_ERROR(length(std::string("\3\0\0\0\0\0\0\0{}", 10), 10), EnvironmentError,
               "must have 3 bytes, but the file has only 10");
  EXPECT_ERROR(length(std::string(10, '\xff'), 10), EnvironmentError,
               "but got 18446744073709551615");
}

TEST(SafetensorsHeader, RefusesWhatIsNotTheFormat) {
  EXPECT_ERROR(parse("", 0), EnvironmentError, "must begin with '{'");
  EXPECT_ERROR(parse(" {}", 0), EnvironmentError, "must begin with '{'");
  EXPECT_ERROR(parse("{", 0), EnvironmentError, "must be JSON");
  EXPECT_ERROR(parse("{\"\xff\":1}", 0), EnvironmentError, "must be JSON");
  EXPECT_ERROR(parse(R"({"a":[[[[[]]]]]})", 0), EnvironmentError, "nest at most 3 deep");
  EXPECT_ERROR(parse(R"({"a":1})", 0), EnvironmentError, "'a' must have dtype, shape");
  EXPECT_ERROR(parse(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1}})", 4),
               EnvironmentError, "data_offsets only");
  EXPECT_ERROR(parse(R"({"__metadata__":[]})", 0), EnvironmentError, "object of texts");
  EXPECT_ERROR(parse(R"({"__metadata__":{"k":1}})", 0), EnvironmentError, "'k' is none");
  EXPECT_ERROR(parse(one("C64", "[1]", "[0,8]"), 8), EnvironmentError, "but got 'C64'");
  EXPECT_ERROR(parse(R"({"a":{"dtype":1,"shape":[1],"data_offsets":[0,4]}})", 4), EnvironmentError,
               "must have a text, a list");
  EXPECT_ERROR(parse(one("F32", "[1]", "[0,4,4]"), 4), EnvironmentError, "list of two numbers");
}

TEST(SafetensorsHeader, RefusesWrongSizes) {
  EXPECT_ERROR(parse(one("F32", "[2]", "[0,4]"), 4), EnvironmentError,
               "'a' must have 8 bytes by its shape and dtype");
  EXPECT_ERROR(parse(one("F32", "[1]", "[4,0]"), 4), EnvironmentError, "its offsets are 4 and 0");
  EXPECT_ERROR(parse(one("F32", "[-1]", "[0,4]"), 4), EnvironmentError, "whole numbers from 0");
  EXPECT_ERROR(parse(one("F32", "[1.0]", "[0,4]"), 4), EnvironmentError, "whole numbers from 0");
  EXPECT_ERROR(parse(one("F32", "[1]", "[0,18446744073709551615]"), 4), EnvironmentError,
               "whole numbers from 0");
  EXPECT_ERROR(parse(one("F32", "[4294967296,4294967296]", "[0,0]"), 0), EnvironmentError,
               "must be below 2^63 bytes");
  EXPECT_ERROR(parse(one("F64", "[0,4611686018427387904]", "[0,0]"), 0), EnvironmentError,
               "must be below 2^63 bytes");
}

TEST(SafetensorsHeader, RefusesGapsOverlapsAndLeftovers) {
  const auto two = [](const char* second) {
    return std::string(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)") +
           R"("b":{"dtype":"U8","shape":[2],"data_offsets":)" + second + "}}";
  };
  EXPECT_EQ(parse(two("[4,6]"), 6).entries.size(), 2u);
  EXPECT_ERROR(parse(two("[5,7]"), 7), EnvironmentError, "'b' begins at 5, not at 4");
  EXPECT_ERROR(parse(two("[2,4]"), 4), EnvironmentError, "'b' begins at 2, not at 4");
  EXPECT_ERROR(parse(two("[4,6]"), 7), EnvironmentError, "must have 6 bytes", "has 7");
  EXPECT_ERROR(parse(two("[4,6]"), 5), EnvironmentError, "it was cut off");
  EXPECT_ERROR(parse(one("U8", "[1]", "[1,2]"), 2), EnvironmentError, "'a' begins at 1, not at 0");
}

TEST(SafetensorsHeader, RefusesANameGivenTwice) {
  const std::string entry = R"({"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
  EXPECT_ERROR(parse(R"({"a":)" + entry + R"(,"a":)" + entry + "}", 0), EnvironmentError,
               "'a' is given twice");
  EXPECT_ERROR(parse(R"({"a":{"dtype":"U8","dtype":"I8","shape":[0],"data_offsets":[0,0]}})", 0),
               EnvironmentError, "'dtype' is given twice");
}

}  // namespace halfstep::train
