#include "halfstep/train/weights/zip_directory.h"

#include "halfstep/core/error.h"

#include <algorithm>
#include <string_view>
#include <vector>

namespace halfstep::train {
namespace {

constexpr uint64_t kEndSize = 22;
constexpr uint64_t kLocatorSize = 20;
constexpr uint64_t kEnd64Size = 56;
constexpr uint64_t kCentralSize = 46;
constexpr uint64_t kLocalSize = 30;
constexpr uint64_t kMaxComment = 0xffff;
constexpr uint64_t kMaxDirectory = uint64_t{64} << 20;
constexpr uint32_t kIn64 = 0xffffffff;  // the value stands in a ZIP64 field

template <class... Parts>
void check(bool condition, const ByteSource& source, const Parts&... parts) {
  HALFSTEP_CHECK_ENVIRONMENT(
      condition, "zip", source.name, ": ", parts...,
      "; the file is damaged or not one that torch.save wrote: get it again");
}

// Little-endian fields of a record that was read whole.
class Record {
 public:
  Record(const ByteSource& source, uint64_t offset, uint64_t size, const char* what) {
    check(offset <= source.size && size <= source.size - offset, source, what, " must have ", size,
          " bytes from ", offset, " on, but the file has only ", source.size);
    bytes_.resize(size);
    if (size > 0) source.read(offset, bytes_.data(), bytes_.size());
  }

  uint64_t number(uint64_t at, uint64_t size) const {
    uint64_t value = 0;
    for (uint64_t i = size; i-- > 0;)
      value = value << 8 | static_cast<unsigned char>(bytes_.at(at + i));
    return value;
  }
  bool has_signature(uint64_t at, char third, char fourth) const {
    return bytes_.compare(at, 4, std::string{'P', 'K', third, fourth}) == 0;
  }
  std::string text(uint64_t at, uint64_t size) const { return bytes_.substr(at, size); }
  uint64_t size() const { return bytes_.size(); }

 private:
  std::string bytes_;
};

struct DirectoryPlace {
  uint64_t entries = 0;
  uint64_t offset = 0;
  uint64_t size = 0;
};

// The end record is the last thing in the file but for a comment whose length it holds.
DirectoryPlace find_directory(const ByteSource& source) {
  check(source.size >= kEndSize, source, "a zip archive must have at least ", kEndSize,
        " bytes, but got ", source.size);
  const uint64_t tail = std::min(source.size, kEndSize + kMaxComment);
  const Record record(source, source.size - tail, tail, "its end");
  uint64_t at = tail - kEndSize;
  const auto is_end = [&](uint64_t place) {
    return record.has_signature(place, 5, 6) &&
           place + kEndSize + record.number(place + 20, 2) == tail;
  };
  while (at > 0 && !is_end(at)) --at;
  check(is_end(at), source, "a zip archive must end with its directory, but there is none",
        " (it may have been cut off)");
  DirectoryPlace place{record.number(at + 10, 2), record.number(at + 16, 4),
                       record.number(at + 12, 4)};

  const uint64_t end = source.size - tail + at;
  if (end < kLocatorSize) return place;
  const Record locator(source, end - kLocatorSize, kLocatorSize, "the ZIP64 locator");
  if (!locator.has_signature(0, 6, 7)) return place;
  const Record end64(source, locator.number(8, 8), kEnd64Size, "the ZIP64 end record");
  check(end64.has_signature(0, 6, 6), source,
        "the ZIP64 locator must point to an end record, but does not");
  return {end64.number(32, 8), end64.number(48, 8), end64.number(40, 8)};
}

struct CentralEntry {
  std::string name;
  uint64_t local = 0;  // where its local header is
  ZipEntry entry;
};

// Puts the ZIP64 values in the place of those that say so, in the format's order.
void read_zip64(const ByteSource& source, const Record& directory, uint64_t at, uint64_t end,
                uint64_t& size, uint64_t& stored, uint64_t& local) {
  if (size != kIn64 && stored != kIn64 && local != kIn64) return;
  while (at + 4 <= end) {
    const uint64_t id = directory.number(at, 2);
    uint64_t field = at + 4;
    const uint64_t field_end = field + directory.number(at + 2, 2);
    check(field_end <= end, source, "an extra field must lie in its entry, but does not");
    at = field_end;
    if (id != 1) continue;
    for (uint64_t* value : {&size, &stored, &local}) {
      if (*value != kIn64) continue;
      check(field + 8 <= field_end, source, "a ZIP64 field must hold 8 bytes, but does not");
      *value = directory.number(field, 8);
      field += 8;
    }
    return;
  }
}

CentralEntry read_central(const ByteSource& source, const Record& directory, uint64_t& at) {
  check(at + kCentralSize <= directory.size() && directory.has_signature(at, 1, 2), source,
        "the directory must list as many entries as it says, but does not");
  const uint64_t flags = directory.number(at + 8, 2);
  const uint64_t method = directory.number(at + 10, 2);
  uint64_t stored = directory.number(at + 20, 4);
  uint64_t size = directory.number(at + 24, 4);
  uint64_t local = directory.number(at + 42, 4);
  const uint64_t name_size = directory.number(at + 28, 2);
  const uint64_t extra_size = directory.number(at + 30, 2);
  const uint64_t extra = at + kCentralSize + name_size;
  const uint64_t end = extra + extra_size + directory.number(at + 32, 2);
  check(end <= directory.size(), source, "an entry must lie in the directory, but does not");
  CentralEntry result;
  result.name = directory.text(at + kCentralSize, name_size);
  read_zip64(source, directory, extra, extra + extra_size, size, stored, local);
  HALFSTEP_CHECK_ENVIRONMENT(
      (flags & 1) == 0 && method == 0 && size == stored, "zip", source.name, ": '", result.name,
      "' must be stored as it is, but is ", (flags & 1) != 0 ? "encrypted" : "compressed",
      "; torch.save does not do that: unpack the archive and pack it without (zip -0)");
  result.local = local;
  result.entry = {0, size, static_cast<uint32_t>(directory.number(at + 16, 4))};
  at = end;
  return result;
}

}  // namespace

std::map<std::string, ZipEntry> read_zip_directory(const ByteSource& source) {
  const auto place = find_directory(source);
  check(place.size <= kMaxDirectory, source, "the directory must have at most ", kMaxDirectory,
        " bytes, but says ", place.size);
  const Record directory(source, place.offset, place.size, "the directory");
  check(place.entries <= place.size / kCentralSize, source,
        "the directory must have room for its entries, but has ", place.size, " bytes for ",
        place.entries);

  std::map<std::string, ZipEntry> result;
  std::vector<std::pair<uint64_t, uint64_t>> used;  // by entries: from, to
  uint64_t at = 0;
  for (uint64_t i = 0; i < place.entries; ++i) {
    auto central = read_central(source, directory, at);
    const Record local(source, central.local, kLocalSize, "an entry's header");
    check(local.has_signature(0, 3, 4), source, "'", central.name,
          "' must have a header where the directory says, but has none");
    auto& entry = central.entry;
    entry.offset = central.local + kLocalSize + local.number(26, 2) + local.number(28, 2);
    check(entry.offset <= place.offset && entry.size <= place.offset - entry.offset, source, "'",
          central.name, "' must lie before the directory, but has ", entry.size, " bytes from ",
          entry.offset, " on");
    used.emplace_back(central.local, entry.offset + entry.size);
    check(result.emplace(central.name, entry).second, source, "an entry must be given once, but '",
          central.name, "' is given twice");
  }
  std::sort(used.begin(), used.end());
  for (size_t i = 1; i < used.size(); ++i)
    check(used[i - 1].second <= used[i].first, source,
          "entries must not overlap, but two do at byte ", used[i].first);
  return result;
}

}  // namespace halfstep::train
