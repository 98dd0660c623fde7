#pragma once
#include "halfstep/train/weights/byte_source.h"

#include <cstdint>
#include <map>
#include <string>

namespace halfstep::train {

/// A file inside a zip archive, whose bytes lie in the archive as they are.
struct ZipEntry {
  uint64_t offset = 0;  ///< of its bytes, from the archive's start
  uint64_t size = 0;    ///< in bytes
  uint32_t crc = 0;     ///< CRC-32 of them, as the archive says; not checked here
};

/// What lies in a zip archive, by name ("archive/data.pkl"). Entries lie within the file and don't
/// overlap, so that reading all of them takes no more memory than the file has bytes.
///
/// Takes what torch.save writes: entries that are stored, not compressed, with or without ZIP64.
/// Throws EnvironmentError for bytes that are no zip archive, are cut off or contradict themselves,
/// and for entries that are compressed, encrypted or given twice.
std::map<std::string, ZipEntry> read_zip_directory(const ByteSource& source);

}  // namespace halfstep::train
