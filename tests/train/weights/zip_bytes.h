#pragma once
#include "halfstep/train/weights/byte_source.h"

#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <zlib.h>

namespace halfstep::testing {

/// Bytes of a string as a ByteSource; the string must outlive it.
inline train::ByteSource source_of(const std::string& bytes, std::string name = "input") {
  return {std::move(name), bytes.size(), [&bytes](uint64_t offset, void* data, size_t count) {
            std::memcpy(data, bytes.data() + offset, count);
          }};
}

inline std::string little(uint64_t value, int bytes) {
  std::string text;
  for (int i = 0; i < bytes; ++i, value >>= 8) text += static_cast<char>(value & 0xff);
  return text;
}

/// A zip archive of stored files, in the plain form or with every size and place in ZIP64 fields.
inline std::string zip_bytes(const std::vector<std::pair<std::string, std::string>>& files,
                             bool zip64 = false, const std::string& comment = "") {
  std::string out;
  std::string directory;
  for (const auto& [name, data] : files) {
    const auto offset = out.size();
    const auto crc = ::crc32_z(0, reinterpret_cast<const Bytef*>(data.data()), data.size());
    const auto checks = little(crc, 4) + little(data.size(), 4) + little(data.size(), 4);
    out += "PK\x03\x04" + little(20, 2) + little(0, 8) + checks + little(name.size(), 2) +
           little(0, 2) + name + data;
    const std::string extra = zip64 ? little(1, 2) + little(24, 2) + little(data.size(), 8) +
                                          little(data.size(), 8) + little(offset, 8)
                                    : "";
    const auto in_64 = little(0xffffffff, 4);
    directory += "PK\x01\x02" + little(20, 2) + little(20, 2) + little(0, 8) +
                 (zip64 ? little(crc, 4) + in_64 + in_64 : checks) + little(name.size(), 2) +
                 little(extra.size(), 2) + little(0, 10) + (zip64 ? in_64 : little(offset, 4)) +
                 name + extra;
  }
  const auto begin = out.size();
  const auto size = directory.size();
  out += directory;
  if (zip64) {
    const auto end = out.size();
    out += "PK\x06\x06" + little(44, 8) + little(45, 2) + little(45, 2) + little(0, 8) +
           little(files.size(), 8) + little(files.size(), 8) + little(size, 8) + little(begin, 8);
    out += "PK\x06\x07" + little(0, 4) + little(end, 8) + little(1, 4);
  }
  return out + "PK\x05\x06" + little(0, 4) + little(zip64 ? 0xffff : files.size(), 2) +
         little(zip64 ? 0xffff : files.size(), 2) + little(zip64 ? 0xffffffff : size, 4) +
         little(zip64 ? 0xffffffff : begin, 4) + little(comment.size(), 2) + comment;
}

}  // namespace halfstep::testing
