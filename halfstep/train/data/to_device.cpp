#include "halfstep/train/data/to_device.h"

namespace halfstep::train {

namespace {
at::Tensor moved(const at::Tensor& tensor, c10::Device device) {
  if (!tensor.defined()) return tensor;
  if (!device.is_cuda() || !tensor.is_cpu()) return tensor.to(device);
  // LibTorch gives pinned memory out again only after the copy from it is done. Where elements
  // share memory, pinning what is behind them would not.
  const auto dense = tensor.is_non_overlapping_and_dense() ? tensor : tensor.contiguous();
  return dense.pin_memory().to(device, tensor.scalar_type(), /*non_blocking=*/true);
}
}  // namespace

Batch to_device(const Batch& batch, c10::Device device) {
  return {moved(batch.data, device), moved(batch.target, device)};
}

}  // namespace halfstep::train
