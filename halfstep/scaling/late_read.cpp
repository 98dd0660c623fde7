#include "halfstep/scaling/late_read.h"

#include <ATen/ops/empty.h>
#include <c10/core/impl/VirtualGuardImpl.h>

namespace halfstep::detail {

LateRead::LateRead(const at::Tensor& tensor) {
  if (tensor.is_cpu()) {
    copy_ = tensor.detach().clone();
    return;
  }
  copy_ = at::empty(tensor.sizes(), tensor.options().device(c10::kCPU).pinned_memory(true));
  copy_.copy_(tensor.detach(), /*non_blocking=*/true);
  const c10::impl::VirtualGuardImpl guard(tensor.device().type());
  arrived_.emplace(tensor.device().type());
  arrived_->record(guard.getStream(tensor.device()));
}

bool LateRead::ready() const {
  return started() && (!arrived_ || arrived_->query());
}

void LateRead::wait() {
  if (arrived_) arrived_->synchronize();
}

}  // namespace halfstep::detail
