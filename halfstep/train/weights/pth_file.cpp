#include "halfstep/train/weights/pth_file.h"

#include "halfstep/core/error.h"
#include "halfstep/train/files/input_file.h"
#include "halfstep/train/weights/pth_index.h"

#include <bit>
#include <utility>

#include <ATen/ops/empty.h>

#include <zlib.h>

namespace halfstep::train {
namespace {

static_assert(std::endian::native == std::endian::little, ".pth data are little endian");

// What torch.save wrote before PyTorch 1.6: a pickle of its magic number comes first.
constexpr std::string_view kOldFormat("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9", 9);

std::string first_bytes(const std::filesystem::path& file, size_t count) {
  std::string bytes(count, '\0');
  InputFile in(file, "a file with weights");
  bytes.resize(in.read_some(bytes.data(), count));
  return bytes;
}

class Archive {
 public:
  explicit Archive(const std::filesystem::path& file)
      : file_(file, "a .pth file"),
        entries_(read_zip_directory(
            {name(), file_.size(), [this](uint64_t offset, void* data, size_t count) {
               file_.read_at(offset, data, count);
             }})) {}

  std::string name() const { return file_.path().string(); }
  const std::map<std::string, ZipEntry>& entries() const { return entries_; }

  std::string text(const std::string& entry) const {
    std::string bytes(entries_.at(entry).size, '\0');
    read(entry, bytes.data());
    return bytes;
  }
  at::Tensor bytes(const std::string& entry) const {
    auto result = at::empty({static_cast<int64_t>(entries_.at(entry).size)}, at::kByte);
    read(entry, result.mutable_data_ptr());
    return result;
  }

 private:
  void read(const std::string& entry, void* data) const {
    const auto& place = entries_.at(entry);
    file_.read_at(place.offset, data, place.size);
    const auto crc = ::crc32_z(0, static_cast<const Bytef*>(data), place.size);
    HALFSTEP_CHECK_ENVIRONMENT(
        crc == place.crc, "pth", name(), ": '", entry,
        "' must have the checksum that the archive says, but has not; the file is damaged: get it "
        "again (where torch.serialization.set_crc32_options(False) was set, save it without)");
  }

  InputFile file_;
  std::map<std::string, ZipEntry> entries_;
};

}  // namespace

bool is_pth(const std::filesystem::path& file) {
  const auto bytes = first_bytes(file, kOldFormat.size());
  HALFSTEP_CHECK_ENVIRONMENT(bytes != kOldFormat, "pth", file.string(),
                             " must be as torch.save has written it since PyTorch 1.6, but is "
                             "older; in Python save it again: torch.save(torch.load(FILE), FILE)");
  return bytes.starts_with("PK\x03\x04");
}

PthFile load_pth(const std::filesystem::path& file, const std::string& key) {
  const Archive archive(file);
  const auto index = read_pth_index(archive.name(), archive.entries(), key,
                                    [&](const std::string& entry) { return archive.text(entry); });
  const auto root = pth_root(archive.entries(), archive.name());

  PthFile result;
  result.others = index.others;
  std::map<std::string, at::Tensor> storages;
  for (const auto& tensor : index.tensors) {
    auto& bytes = storages[tensor.storage];
    if (!bytes.defined()) bytes = archive.bytes(root + "/data/" + tensor.storage);
    const auto element = static_cast<int64_t>(size_of(tensor.dtype));
    const auto storage =
        bytes.narrow(0, 0, bytes.numel() / element * element).view(scalar_type_of(tensor.dtype));
    result.tensors[tensor.name] =
        storage.as_strided(tensor.shape, tensor.strides, static_cast<int64_t>(tensor.offset));
  }
  return result;
}

}  // namespace halfstep::train
