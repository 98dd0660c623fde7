#include "halfstep/train/files/safetensors.h"

#include "halfstep/core/dtype.h"
#include "halfstep/core/error.h"
#include "halfstep/train/files/atomic_file.h"
#include "halfstep/train/files/input_file.h"
#include "halfstep/train/files/safetensors_header.h"

#include <algorithm>
#include <array>
#include <bit>
#include <optional>
#include <utility>

#include <ATen/Functions.h>

namespace halfstep::train {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors data are little endian");

using Dtype = SafetensorsDtype;

constexpr std::array<std::pair<Dtype, c10::ScalarType>, 15> kTorchDtypes{
    {{Dtype::BOOL, c10::kBool},
     {Dtype::U8, c10::kByte},
     {Dtype::I8, c10::kChar},
     {Dtype::F8_E4M3, c10::kFloat8_e4m3fn},
     {Dtype::F8_E5M2, c10::kFloat8_e5m2},
     {Dtype::U16, c10::kUInt16},
     {Dtype::I16, c10::kShort},
     {Dtype::F16, c10::kHalf},
     {Dtype::BF16, c10::kBFloat16},
     {Dtype::U32, c10::kUInt32},
     {Dtype::I32, c10::kInt},
     {Dtype::F32, c10::kFloat},
     {Dtype::U64, c10::kUInt64},
     {Dtype::I64, c10::kLong},
     {Dtype::F64, c10::kDouble}}};

SafetensorsEntry describe(const std::string& name, const at::Tensor& tensor) {
  HALFSTEP_CHECK_USAGE(tensor.defined() && tensor.layout() == c10::kStrided, "safetensors", "'",
                       name, "' must be a dense tensor, but is ",
                       tensor.defined() ? "sparse" : "undefined", "; leave it out or convert it");
  const auto known = std::find_if(kTorchDtypes.begin(), kTorchDtypes.end(), [&](const auto& pair) {
    return pair.second == tensor.scalar_type();
  });
  HALFSTEP_CHECK_USAGE(known != kTorchDtypes.end(), "safetensors", "'", name,
                       "' must have a dtype of the format, but has ",
                       dtype_name(tensor.scalar_type()), "; convert it first");
  SafetensorsEntry entry;
  entry.name = name;
  entry.dtype = known->first;
  entry.shape = tensor.sizes().vec();
  return entry;
}

SafetensorsHeader read_header(InputFile& in) {
  const std::string name = in.path().string();
  std::string head(8, '\0');
  head.resize(in.read_some(head.data(), head.size()));
  head.resize(parse_safetensors_length(head, in.size(), name));
  in.read(head.data(), head.size());
  return parse_safetensors_header(head, in.size(), name);
}

}  // namespace

c10::ScalarType scalar_type_of(SafetensorsDtype dtype) {
  return kTorchDtypes.at(static_cast<size_t>(dtype)).second;
}

void save_safetensors(const std::filesystem::path& file, const Safetensors& content) {
  SafetensorsHeader header;
  header.metadata = content.metadata;
  for (const auto& [name, tensor] : content.tensors)
    header.entries.push_back(describe(name, tensor));
  std::stable_sort(header.entries.begin(), header.entries.end(), [](const auto& a, const auto& b) {
    return size_of(a.dtype) > size_of(b.dtype);
  });
  uint64_t position = 0;
  for (auto& entry : header.entries) {
    entry.begin = position;
    position += static_cast<uint64_t>(content.tensors.at(entry.name).nbytes());
    entry.end = position;
  }
  const std::string head = write_safetensors_header(header);

  AtomicFile out(file, head.size() + position);
  out.write(head.data(), head.size());
  for (const auto& entry : header.entries) {
    const at::Tensor tensor =
        content.tensors.at(entry.name).detach().to(c10::kCPU).resolve_neg().contiguous();
    out.write(tensor.const_data_ptr(), tensor.nbytes());
  }
  out.commit();
}

Safetensors load_safetensors(const std::filesystem::path& file) {
  InputFile in(file, "a safetensors file");
  auto header = read_header(in);
  Safetensors content;
  content.metadata = std::move(header.metadata);
  for (const auto& entry : header.entries) {
    at::Tensor tensor = at::empty(entry.shape, scalar_type_of(entry.dtype));
    in.read(tensor.mutable_data_ptr(), tensor.nbytes());
    content.tensors[entry.name] = std::move(tensor);
  }
  return content;
}

std::map<std::string, std::string> load_safetensors_metadata(const std::filesystem::path& file) {
  InputFile in(file, "a safetensors file");
  return read_header(in).metadata;
}

}  // namespace halfstep::train
