#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

/// The header of an IDX file, the format of MNIST: two zero bytes, the element type, the number of
/// dimensions, each dimension as 4 bytes big endian, then the data, last dimension fastest. No
/// LibTorch here, so that it can be fuzzed alone.
namespace halfstep::train {

/// What the header says.
struct IdxHeader {
  std::vector<int64_t> shape;
  uint64_t header_size = 0;  ///< Bytes before the data.
  uint64_t data_size = 0;    ///< Bytes of data: the product of the shape.
};

/// The longest header: 255 dimensions.
constexpr uint64_t kMaxIdxHeader = 4 + 4 * 255;

/// Reads the header from the first bytes of a file (the whole file or at least kMaxIdxHeader of
/// them). Only unsigned bytes, MNIST's type, are taken. Throws EnvironmentError for another file,
/// one that ends within the header, or sizes that overflow; `file` stands for it in messages.
IdxHeader parse_idx_header(std::string_view bytes, const std::string& file);

}  // namespace halfstep::train
