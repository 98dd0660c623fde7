#include "halfstep/train/data/gzip_file.h"

#include "halfstep/core/error.h"

#include <algorithm>
#include <limits>
#include <string_view>
#include <vector>

#include <zlib.h>

namespace halfstep::train {

struct GzipFile::Inflater {
  z_stream stream{};
  std::vector<unsigned char> input = std::vector<unsigned char>(1 << 16);
  bool inside = true;  // in the middle of a member

  Inflater() {
    constexpr int gzip_only = 15 + 16;
    HALFSTEP_CHECK_ENVIRONMENT(inflateInit2(&stream, gzip_only) == Z_OK, "gzip",
                               "zlib must start, but got no memory; free some");
  }
  ~Inflater() { inflateEnd(&stream); }
  Inflater(const Inflater&) = delete;
  Inflater& operator=(const Inflater&) = delete;

  // True if there is input left.
  bool refill(InputFile& file) {
    if (stream.avail_in > 0) return true;
    stream.next_in = input.data();
    stream.avail_in = static_cast<uInt>(file.read_some(input.data(), input.size()));
    return stream.avail_in > 0;
  }
};

GzipFile::GzipFile(const std::filesystem::path& file, const std::string& what) : file_(file, what) {
  unsigned char magic[2] = {0, 0};
  InputFile(file, what).read_some(magic, sizeof magic);
  if (magic[0] == 0x1f && magic[1] == 0x8b) inflater_ = std::make_unique<Inflater>();
}

GzipFile::~GzipFile() = default;

uint64_t GzipFile::max_size() const {
  constexpr uint64_t best_ratio = 1032;
  if (!inflater_) return file_.size();
  uint64_t size = 0;
  const bool overflow = __builtin_mul_overflow(file_.size(), best_ratio, &size);
  return overflow ? std::numeric_limits<uint64_t>::max() : size;
}

size_t GzipFile::read_some(void* data, size_t size) {
  if (!inflater_) return file_.read_some(data, size);
  const std::string name = file_.path().string();
  z_stream& stream = inflater_->stream;
  auto* out = static_cast<unsigned char*>(data);
  size_t done = 0;
  while (done < size) {
    if (!inflater_->refill(file_)) {
      HALFSTEP_CHECK_ENVIRONMENT(!inflater_->inside, "gzip", name,
                                 " must be a whole gzip file, but was cut off; get it again");
      break;
    }
    if (!inflater_->inside) {  // A gzip file may have several members, one after the other.
      inflateReset(&stream);
      inflater_->inside = true;
    }
    constexpr size_t most = 1 << 30;
    const auto wanted = static_cast<uInt>(std::min(size - done, most));
    stream.next_out = out + done;
    stream.avail_out = wanted;
    const int status = inflate(&stream, Z_NO_FLUSH);
    HALFSTEP_CHECK_ENVIRONMENT(status == Z_OK || status == Z_STREAM_END || status == Z_BUF_ERROR,
                               "gzip", name, " must hold gzip data, but zlib says '",
                               stream.msg ? stream.msg : "damaged", "'; get it again");
    done += wanted - stream.avail_out;
    inflater_->inside = status != Z_STREAM_END;
  }
  return done;
}

}  // namespace halfstep::train
