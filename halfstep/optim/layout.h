#pragma once
#include <ATen/core/Tensor.h>

namespace halfstep::optim::detail {

/// The fused kernels walk plain memory: the CPU ones ignore strides. So everything that belongs to
/// one parameter must be dense and laid out alike. This is that layout, for a parameter of any
/// strides: an uninitialised tensor of its shape, dtype and device, with the parameter's own
/// strides where these are dense.
at::Tensor empty_work_tensor(const at::Tensor& parameter);

/// The same in another dtype.
at::Tensor empty_work_tensor(const at::Tensor& parameter, c10::ScalarType dtype);

/// Equal shapes, and equal strides wherever a stride matters.
bool same_layout(const at::Tensor& left, const at::Tensor& right);

/// A dense tensor to work on in place of the user's: the user's itself where it fits, else a copy.
struct WorkTensor {
  at::Tensor tensor;
  bool is_copy = false;
};

/// `parameter` itself where it is dense.
WorkTensor work_parameter(const at::Tensor& parameter);

/// `gradient` itself where it has `layout`'s strides (and, with `same_dtype`, its dtype).
WorkTensor work_gradient(const at::Tensor& gradient, const at::Tensor& layout, bool same_dtype);

/// Tells autograd and the caches that `tensor` was written by a kernel that does not say so itself.
void bump_version(const at::Tensor& tensor);

}  // namespace halfstep::optim::detail
