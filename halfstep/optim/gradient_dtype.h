#pragma once
#include <ATen/core/Tensor.h>
#include <c10/core/ScalarType.h>

namespace halfstep::optim {

/// From now on autograd keeps the gradients of `parameters` in `dtype`, whatever dtype the
/// parameters have: bfloat16 gradients of float32 weights halve their memory and traffic (with
/// ShadowWeights no cast is left in backward), float32 gradients of bfloat16 weights add up
/// micro-batches without rounding each sum to 16 bits.
///
///   set_gradient_dtype(net->parameters(), torch::kBFloat16);
///
/// Optimizers of halfstep take any of these dtypes, also mixed. Floating-point leaves on any
/// device; a gradient that is there already must have the dtype. Throws UsageError otherwise,
/// before anything has changed. Does not sync. Python's counterpart is Tensor.grad_dtype.
void set_gradient_dtype(at::TensorList parameters, c10::ScalarType dtype);

/// The dtype autograd keeps the gradient of `parameter` in.
c10::ScalarType gradient_dtype(const at::Tensor& parameter);

}  // namespace halfstep::optim
