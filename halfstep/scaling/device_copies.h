#pragma once
#include <unordered_map>

#include <ATen/core/Tensor.h>

namespace halfstep::detail {

/// One tensor on every device that asks: copied on the first request, the tensor itself on its own
/// device. Keyed by Device, so cuda:0 and cuda:1 have one each. Copies to a GPU don't sync; a copy
/// from a GPU to the CPU waits, because the caller may read it at once (Difference from Python).
class DeviceCopies {
 public:
  explicit DeviceCopies(at::Tensor master) : master_(std::move(master)) {}

  at::Tensor& get(c10::Device device);

  /// What was asked for so far.
  const std::unordered_map<c10::Device, at::Tensor>& made() const { return made_; }

 private:
  at::Tensor master_;
  std::unordered_map<c10::Device, at::Tensor> made_;
};

/// `tensor` on `device`, as above; the tensor itself where it lies there already.
at::Tensor to_device(const at::Tensor& tensor, c10::Device device);

}  // namespace halfstep::detail
