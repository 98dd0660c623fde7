#include "halfstep/train/data/idx.h"

#include "halfstep/core/error.h"

#include <limits>

namespace halfstep::train {
namespace {

constexpr const char* kRemedy = "; the file is damaged or not an IDX file: get it again";
constexpr unsigned char kUnsignedByte = 0x08;

}  // namespace

IdxHeader parse_idx_header(std::string_view bytes, const std::string& file) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(bytes.at(i)); };
  HALFSTEP_CHECK_ENVIRONMENT(bytes.size() >= 4, "IDX", file,
                             " must have at least 4 bytes, but has ", bytes.size(), kRemedy);
  HALFSTEP_CHECK_ENVIRONMENT(byte(0) == 0 && byte(1) == 0, "IDX", file,
                             " must begin with two zero bytes, but begins with ", int{byte(0)},
                             " and ", int{byte(1)}, kRemedy);
  HALFSTEP_CHECK_ENVIRONMENT(byte(2) == kUnsignedByte, "IDX", file,
                             " must hold unsigned bytes (type 8), but has type ", int{byte(2)},
                             kRemedy);
  IdxHeader header;
  const size_t rank = byte(3);
  header.header_size = 4 + 4 * rank;
  HALFSTEP_CHECK_ENVIRONMENT(rank >= 1 && bytes.size() >= header.header_size, "IDX", file,
                             " must have at least one dimension and a header of ",
                             header.header_size, " bytes for its ", rank,
                             " dimensions, but has only ", bytes.size(), " bytes", kRemedy);
  header.data_size = 1;
  bool overflow = false;
  for (size_t i = 0; i < rank; ++i) {
    uint64_t size = 0;
    for (size_t k = 0; k < 4; ++k) size = size << 8 | byte(4 + 4 * i + k);
    header.shape.push_back(static_cast<int64_t>(size));
    overflow = overflow || __builtin_mul_overflow(header.data_size, size, &header.data_size) ||
               header.data_size > static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
    HALFSTEP_CHECK_ENVIRONMENT(size > 0 && !overflow, "IDX", file,
                               " must have sizes from 1 whose product is below 2^63, but size ", i,
                               " is ", size, kRemedy);
  }
  return header;
}

}  // namespace halfstep::train
