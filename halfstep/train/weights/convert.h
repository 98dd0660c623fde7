#pragma once
#include <cstdint>

#include <ATen/core/Tensor.h>

namespace halfstep::train {

/// A tensor in another dtype, and what that did to its values.
struct Converted {
  at::Tensor tensor;
  int64_t overflowed = 0;  ///< finite before, infinite now
  int64_t vanished = 0;    ///< not 0 before, 0 now
};

/// Converts a tensor to a floating-point dtype, on its device. Syncs, unless the dtype is the
/// tensor's own.
Converted convert(const at::Tensor& tensor, c10::ScalarType dtype);

}  // namespace halfstep::train
