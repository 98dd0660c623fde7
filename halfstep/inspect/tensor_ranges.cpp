#include "halfstep/inspect/tensor_ranges.h"

#include <algorithm>
#include <utility>

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/aminmax.h>
#include <ATen/ops/stack.h>
#include <ATen/record_function.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

namespace halfstep::inspect::detail {

namespace {

/// Ops inside are LibTorch's kernels and nothing else.
struct KernelsOnly {
  at::DisableRecordFunctionGuard unseen;
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  c10::impl::ExcludeDispatchKeyGuard no_autocast{c10::autocast_dispatch_keyset};
};

}  // namespace

void TensorRanges::add(const at::Tensor& tensor) {
  const KernelsOnly kernels_only;
  const auto [min, max] = at::aminmax(tensor);
  if (tensor.is_cpu()) {
    ranges_.push_back({min.item<double>(), max.item<double>()});
    return;
  }
  auto pending = std::find_if(pending_.begin(), pending_.end(), [&](const Pending& each) {
    return each.device == tensor.device() && each.dtype == tensor.scalar_type();
  });
  if (pending == pending_.end())
    pending = pending_.insert(pending, {tensor.device(), tensor.scalar_type(), {}, {}, {}});
  pending->places.push_back(ranges_.size());
  pending->mins.push_back(min);
  pending->maxs.push_back(max);
  ranges_.emplace_back();
}

std::vector<TensorRanges::Range> TensorRanges::take() {
  const KernelsOnly kernels_only;
  for (const auto& pending : pending_) {
    const auto mins = at::stack(pending.mins).to(at::kCPU, at::kDouble);
    const auto maxs = at::stack(pending.maxs).to(at::kCPU, at::kDouble);
    for (size_t i = 0; i < pending.places.size(); ++i)
      ranges_[pending.places[i]] = {mins.const_data_ptr<double>()[i],
                                    maxs.const_data_ptr<double>()[i]};
  }
  pending_.clear();
  return std::exchange(ranges_, {});
}

}  // namespace halfstep::inspect::detail
