#pragma once
#include <cstdint>
#include <functional>
#include <string>

namespace halfstep::train {

/// Bytes that can be read in any order: a file's, or a buffer's. No LibTorch here, so that what
/// reads from one can be fuzzed alone.
struct ByteSource {
  std::string name;   ///< stands for it in messages
  uint64_t size = 0;  ///< in bytes
  /// Copies `count` bytes from `offset` on; asked for bytes within `size` only. Throws
  /// EnvironmentError where they can't be read.
  std::function<void(uint64_t offset, void* data, size_t count)> read;
};

}  // namespace halfstep::train
