#include "halfstep/dist/gradient_compression.h"

#include <torch/csrc/distributed/c10d/comm.hpp>

namespace halfstep::detail {

namespace {

class BFloat16Hook : public c10d::CppCommHookInterface<c10::intrusive_ptr<c10d::ProcessGroup>> {
 public:
  using CppCommHookInterface::CppCommHookInterface;

  c10::intrusive_ptr<c10::ivalue::Future> runHook(c10d::GradBucket& bucket) override {
    auto buffer = bucket.getBufferRef();
    // Divided first, as LibTorch's float16 hook does.
    std::vector<at::Tensor> sent{buffer.to(at::kBFloat16).div_(state_->getSize())};
    const auto summed = state_->allreduce(sent)->getFuture();
    return summed->then(
        [buffer](c10::ivalue::Future& future) {
          buffer.copy_(future.value().toTensorVector()[0]);
          return c10::IValue(buffer);
        },
        summed->elementType());
  }
};

}  // namespace

std::unique_ptr<c10d::CommHookInterface> make_bfloat16_hook(
    const c10::intrusive_ptr<c10d::ProcessGroup>& group) {
  return std::make_unique<BFloat16Hook>(group);
}

}  // namespace halfstep::detail
