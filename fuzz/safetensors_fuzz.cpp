// Any bytes are a safetensors file or an EnvironmentError; what is accepted lies within the file
// and is read again from what we write.
#include "halfstep/core/error.h"
#include "halfstep/train/files/safetensors_header.h"

#include <cstdlib>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace halfstep::train;
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  SafetensorsHeader header;
  try {
    const uint64_t length = parse_safetensors_length(bytes, size, "input");
    header = parse_safetensors_header(bytes.substr(8, length), size, "input");
    uint64_t end = 0;
    for (const auto& entry : header.entries) {
      uint64_t elements = 1;
      for (const int64_t dimension : entry.shape) {
        if (dimension < 0) std::abort();
        elements *= static_cast<uint64_t>(dimension);
      }
      if (entry.begin != end || entry.end - entry.begin != elements * size_of(entry.dtype))
        std::abort();
      end = entry.end;
    }
    if (8 + length + end != size) std::abort();
  } catch (const halfstep::EnvironmentError&) {
    return 0;
  }
  const std::string written = write_safetensors_header(header);
  const uint64_t data_size = header.entries.empty() ? 0 : header.entries.back().end;
  const uint64_t total = written.size() + data_size;
  if (parse_safetensors_length(written, total, "written") != written.size() - 8) std::abort();
  const auto again =
      parse_safetensors_header(std::string_view(written).substr(8), total, "written");
  if (write_safetensors_header(again) != written) std::abort();
  return 0;
}
