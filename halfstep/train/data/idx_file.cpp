#include "halfstep/train/data/idx_file.h"

#include "halfstep/core/error.h"
#include "halfstep/train/data/gzip_file.h"
#include "halfstep/train/data/idx.h"

#include <algorithm>
#include <string>

#include <ATen/Functions.h>

namespace halfstep::train {

at::Tensor read_idx(const std::filesystem::path& file, uint64_t max_bytes) {
  const std::string name = file.string();
  GzipFile in(file, "an IDX file");
  // A header is 4 bytes, then as many words as its fourth byte says.
  std::string bytes(4, '\0');
  bytes.resize(in.read_some(bytes.data(), 4));
  if (bytes.size() == 4) {
    bytes.resize(4 + 4 * size_t{static_cast<unsigned char>(bytes[3])});
    bytes.resize(4 + in.read_some(bytes.data() + 4, bytes.size() - 4));
  }
  const IdxHeader header = parse_idx_header(bytes, name);

  const uint64_t expected = header.header_size + header.data_size;
  constexpr const char* cut = "; it was cut off or is damaged: get it again";
  HALFSTEP_CHECK_ENVIRONMENT(header.data_size <= max_bytes, "IDX", name, " must have at most ",
                             max_bytes, " bytes of data, but its header says ", header.data_size,
                             "; the file is damaged or not meant for this");
  HALFSTEP_CHECK_ENVIRONMENT(expected <= in.max_size(), "IDX", name, " must have ", expected,
                             " bytes as its header says, but has at most ", in.max_size(), cut);
  at::Tensor data = at::empty(header.shape, at::kByte);
  const size_t count = in.read_some(data.mutable_data_ptr(), data.nbytes());
  HALFSTEP_CHECK_ENVIRONMENT(count == data.nbytes(), "IDX", name, " must have ", expected,
                             " bytes as its header says, but has ", header.header_size + count,
                             cut);
  char more = 0;
  HALFSTEP_CHECK_ENVIRONMENT(
      in.read_some(&more, 1) == 0, "IDX", name, " must have ", expected,
      " bytes as its header says, but has more; it is damaged: get it again");
  return data;
}

}  // namespace halfstep::train
