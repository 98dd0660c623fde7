#pragma once
#include <ATen/core/dispatch/Dispatcher.h>

namespace halfstep::detail {

/// halfstep::gelu_backward(Tensor grad, Tensor self) -> Tensor: aten::gelu_backward without
/// approximation, of two contiguous bfloat16 tensors of one size on the CPU. A bfloat16 number is
/// one of 65,536: their slopes are looked up instead of computed, in a table of 256 KiB that
/// LibTorch's own float32 kernel fills at the first use.
c10::OperatorHandle gelu_backward_op();

/// Whether it has the bits of LibTorch's kernel for contiguous tensors of more than one element on
/// this machine: tried once, for every number and gradients of all kinds.
bool gelu_backward_has_same_bits();

}  // namespace halfstep::detail
