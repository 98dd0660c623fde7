#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

/// The header of a safetensors file: 8 bytes of length (little endian), then that many bytes of
/// JSON, then the data. No LibTorch here, so that it can be fuzzed alone.
namespace halfstep::train {

/// Element types of the format that LibTorch has too.
// NOLINTBEGIN(readability-identifier-naming): the format's own names
enum class SafetensorsDtype {
  BOOL,
  U8,
  I8,
  F8_E4M3,
  F8_E5M2,
  U16,
  I16,
  F16,
  BF16,
  U32,
  I32,
  F32,
  U64,
  I64,
  F64
};
// NOLINTEND(readability-identifier-naming)

/// A dtype as the format writes it, "BF16", and its bytes an element.
std::string_view name_of(SafetensorsDtype dtype);
uint64_t size_of(SafetensorsDtype dtype);

/// One tensor, and where its bytes lie.
struct SafetensorsEntry {
  std::string name;
  SafetensorsDtype dtype = SafetensorsDtype::F32;
  std::vector<int64_t> shape;
  uint64_t begin = 0;  ///< First byte, counted from the end of the header.
  uint64_t end = 0;    ///< One past the last byte.
};

/// Everything the header says.
struct SafetensorsHeader {
  std::map<std::string, std::string> metadata;
  std::vector<SafetensorsEntry> entries;  ///< In the order of their bytes, without gaps.
};

/// The longest header the format allows, in bytes.
constexpr uint64_t kMaxSafetensorsHeader = 100'000'000;

/// Reads the length in the first 8 bytes of a file of `file_size` bytes. `bytes` holds at least
/// min(8, file_size) of them. Throws EnvironmentError where the file can't hold such a header;
/// `file` stands for it in messages.
uint64_t parse_safetensors_length(std::string_view bytes, uint64_t file_size,
                                  const std::string& file);

/// Reads the JSON of a file of `file_size` bytes. Throws EnvironmentError unless it is exactly
/// right: known dtypes, shapes whose sizes agree with the offsets without overflow, tensors that
/// follow each other from the first to the last byte of the file, no name twice.
/// Differs from Python's reader: the same checks, and a name given twice inside an entry is refused
/// too.
SafetensorsHeader parse_safetensors_header(std::string_view json, uint64_t file_size,
                                           const std::string& file);

/// The first bytes of a file: length and JSON, padded with spaces so that the data begin at a
/// multiple of 8. Equal headers give equal bytes. Throws UsageError for text that is not UTF-8 and
/// for a header above the limit.
std::string write_safetensors_header(const SafetensorsHeader& header);

}  // namespace halfstep::train
