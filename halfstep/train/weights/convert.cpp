#include "halfstep/train/weights/convert.h"

#include <ATen/ATen.h>

namespace halfstep::train {

Converted convert(const at::Tensor& tensor, c10::ScalarType dtype) {
  const auto source = tensor.detach();
  Converted result{source.to(dtype), 0, 0};
  if (source.scalar_type() == dtype) return result;
  const auto& now = result.tensor;
  result.overflowed = (now.isfinite().logical_not() & source.isfinite()).sum().item<int64_t>();
  result.vanished = now.eq(0).logical_and(source.ne(0)).sum().item<int64_t>();
  return result;
}

}  // namespace halfstep::train
