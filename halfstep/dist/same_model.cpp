#include "halfstep/dist/same_model.h"

#include "halfstep/core/dtype.h"

#include <bit>
#include <cstring>

#include <c10/core/GradMode.h>
#include <torch/csrc/distributed/c10d/comm.hpp>

namespace halfstep::dist {

namespace {

constexpr const char* kSameModelWhere = "DistributedDataParallel";
// As Python's: one exchange for many small tensors.
constexpr size_t kBroadcastBytes = size_t{250} << 20;

// Not for protection: it tells accidents, of any size and place.
uint64_t checksum(const at::Tensor& tensor) {
  const auto here = tensor.detach().cpu().contiguous();
  const auto* bytes = static_cast<const char*>(here.const_data_ptr());
  size_t left = here.nbytes();
  uint64_t sum = 0x9e3779b97f4a7c15 ^ left;
  while (left > 0) {
    uint64_t word = 0;
    const auto count = std::min(left, sizeof(word));
    std::memcpy(&word, bytes, count);
    sum = std::rotl((sum ^ word) * 0xbf58476d1ce4e5b9, 29);
    bytes += count;
    left -= count;
  }
  return sum;
}

}  // namespace

void check_same_form(ProcessGroup& group, const NamedTensors& tensors, const std::string& what) {
  std::string form;
  for (const auto& item : tensors)
    form +=
        c10::str(item.key(), " ", item.value().sizes(), " ", dtype_name(item.value().scalar_type()),
                 item.value().requires_grad() ? "" : ", frozen", "\n");
  group.check_same(kSameModelWhere, what, form, "build the same model on every rank");
}

void check_same_values(ProcessGroup& group, const NamedTensors& tensors, const std::string& what) {
  std::string sums;
  for (const auto& item : tensors)
    sums += c10::str(item.key(), " with checksum ", checksum(item.value()), "\n");
  group.check_same(kSameModelWhere, what, sums,
                   "let only the exchanged gradients move them, or broadcast rank 0's");
}

void broadcast_all_(ProcessGroup& group, const NamedTensors& tensors, int root) {
  if (tensors.is_empty() || group.world_size() == 1) return;
  const c10::NoGradGuard no_grad;
  group.count_exchange();
  std::vector<at::Tensor> list;
  for (const auto& item : tensors) list.push_back(item.value().detach());
  c10d::broadcast_coalesced(group.handle(), list, kBroadcastBytes, root);
}

}  // namespace halfstep::dist
