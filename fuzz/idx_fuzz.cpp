// Any bytes are an IDX header or an EnvironmentError, and what is accepted is consistent.
#include "halfstep/core/error.h"
#include "halfstep/train/data/idx.h"

#include <cstdlib>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  try {
    const auto header = halfstep::train::parse_idx_header(bytes, "input");
    if (header.header_size > size || header.header_size != 4 + 4 * header.shape.size())
      std::abort();
    uint64_t product = 1;
    for (const int64_t dimension : header.shape) {
      if (dimension <= 0) std::abort();
      product *= static_cast<uint64_t>(dimension);
    }
    if (product != header.data_size) std::abort();
  } catch (const halfstep::EnvironmentError&) {}
  return 0;
}
