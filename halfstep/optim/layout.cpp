#include "halfstep/optim/layout.h"

#include <ATen/ops/empty_like.h>
#include <c10/core/TensorImpl.h>

namespace halfstep::optim::detail {

at::Tensor empty_work_tensor(const at::Tensor& parameter) {
  return empty_work_tensor(parameter, parameter.scalar_type());
}

at::Tensor empty_work_tensor(const at::Tensor& parameter, c10::ScalarType dtype) {
  // Preserve: the parameter's strides where they are dense, else a dense order near them.
  return at::empty_like(parameter.detach(), dtype, {}, {}, {}, at::MemoryFormat::Preserve);
}

bool same_layout(const at::Tensor& left, const at::Tensor& right) {
  if (left.sizes() != right.sizes()) return false;
  for (int64_t i = 0; i < left.dim(); ++i) {
    if (left.size(i) > 1 && left.stride(i) != right.stride(i)) return false;
  }
  return true;
}

WorkTensor work_parameter(const at::Tensor& parameter) {
  if (parameter.is_non_overlapping_and_dense()) return {parameter, false};
  auto copy = empty_work_tensor(parameter);
  copy.copy_(parameter);
  return {std::move(copy), true};
}

WorkTensor work_gradient(const at::Tensor& gradient, const at::Tensor& layout, bool same_dtype) {
  const bool fits = same_layout(gradient, layout) && gradient.is_non_overlapping_and_dense();
  if (fits && (!same_dtype || gradient.scalar_type() == layout.scalar_type()))
    return {gradient, false};
  const auto dtype = same_dtype ? layout.scalar_type() : gradient.scalar_type();
  auto copy = at::empty_like(layout, layout.options().dtype(dtype).requires_grad(false),
                             at::MemoryFormat::Preserve);
  copy.copy_(gradient);
  return {std::move(copy), true};
}

void bump_version(const at::Tensor& tensor) {
  // Inference tensors have no version, and autograd never sees them.
  if (!tensor.is_inference()) tensor.unsafeGetTensorImpl()->bump_version();
}

}  // namespace halfstep::optim::detail
