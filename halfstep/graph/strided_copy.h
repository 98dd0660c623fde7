#pragma once
#include <ATen/core/Tensor.h>

namespace halfstep::detail {

/// A copy in memory of its own with the strides of `tensor`, those of expanded dimensions (0) too.
/// One whose elements overlap otherwise (unfold) has others. Is no part of an autograd graph.
at::Tensor strided_copy(const at::Tensor& tensor);

}  // namespace halfstep::detail
