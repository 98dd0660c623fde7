// Any bytes are a .pth file, or its data.pkl alone, or an error of halfstep's; the tensors of what
// is accepted lie within their storages.
#include "halfstep/core/error.h"
#include "halfstep/train/weights/pth_index.h"

#include <cstdlib>
#include <cstring>

namespace {

using namespace halfstep::train;

constexpr uint64_t kStorage = 64;  // bytes of each storage of a lone data.pkl

void check(const PthIndex& index, const StorageSize& storage_size) {
  for (const auto& tensor : index.tensors) {
    const auto bytes = storage_size(tensor.storage);
    if (!bytes || tensor.shape.size() != tensor.strides.size()) std::abort();
    __int128 last = tensor.offset;
    bool empty = false;
    for (size_t i = 0; i < tensor.shape.size(); ++i) {
      if (tensor.shape[i] < 0 || tensor.strides[i] < 0) std::abort();
      empty = empty || tensor.shape[i] == 0;
      last += static_cast<__int128>(tensor.shape[i] - 1) * tensor.strides[i];
    }
    if (!empty && (last + 1) * size_of(tensor.dtype) > *bytes) std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  try {
    const auto read = [&](uint64_t offset, void* to, size_t count) {
      if (offset > size || count > size - offset) std::abort();
      std::memcpy(to, bytes.data() + offset, count);
    };
    const auto entries = read_zip_directory({"input", size, read});
    const auto root = pth_root(entries, "input");
    const auto index = read_pth_index("input", entries, "", [&](const std::string& name) {
      const auto& entry = entries.at(name);
      return bytes.substr(entry.offset, entry.size);
    });
    check(index, [&](const std::string& key) -> std::optional<uint64_t> {
      return entries.at(root + "/data/" + key).size;
    });
  } catch (const halfstep::Error&) {}
  try {
    const auto storage_size = [](const std::string& key) {
      return key.size() < 3 ? std::optional<uint64_t>(kStorage) : std::nullopt;
    };
    check(read_state_dict(bytes, "", storage_size, "input"), storage_size);
  } catch (const halfstep::Error&) {}
  return 0;
}
