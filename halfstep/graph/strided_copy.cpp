#include "halfstep/graph/strided_copy.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include <ATen/ops/empty_strided.h>
#include <c10/core/GradMode.h>

namespace halfstep::detail {

namespace {

bool overlaps(const at::Tensor& tensor) {
  std::vector<int64_t> by_stride(static_cast<size_t>(tensor.dim()));
  std::iota(by_stride.begin(), by_stride.end(), 0);
  std::sort(by_stride.begin(), by_stride.end(),
            [&](int64_t a, int64_t b) { return tensor.stride(a) < tensor.stride(b); });
  int64_t extent = 1;
  for (const auto dimension : by_stride) {
    if (tensor.size(dimension) == 1) continue;
    if (tensor.stride(dimension) < extent) return true;
    extent += tensor.stride(dimension) * (tensor.size(dimension) - 1);
  }
  return false;
}

}  // namespace

at::Tensor strided_copy(const at::Tensor& tensor) {
  const c10::NoGradGuard no_grad;
  auto each_once = tensor.detach();
  for (int64_t i = 0; i < tensor.dim(); ++i) {
    if (tensor.stride(i) == 0 && tensor.size(i) > 1) each_once = each_once.narrow(i, 0, 1);
  }
  if (tensor.numel() == 0 || overlaps(each_once)) return tensor.detach().clone();
  auto copy = at::empty_strided(each_once.sizes(), each_once.strides(), tensor.options());
  copy.copy_(each_once);
  return copy.as_strided(tensor.sizes(), tensor.strides());
}

}  // namespace halfstep::detail
