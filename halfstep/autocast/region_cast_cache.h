#pragma once
#include "halfstep/core/weight_mark.h"

#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <utility>

#include <ATen/core/Tensor.h>

namespace halfstep::detail {

/// The 16-bit casts of weights that one policy region keeps, so that each weight is cast once.
///
/// As LibTorch's cache, but by weight and dtype and version: the cast of a weight that was changed
/// in place is renewed, and a transposed view of a weight (torch::nn::Linear's) finds its weight's
/// cast. Not seen: what bumps no version (`.data()`, at::_fused_*_); clear_cast_cache() forgets
/// all. Safe from any thread.
class RegionCastCache {
 public:
  /// `argument`, float32, in `dtype`; from the cache where it is a weight. Gradients are those of a
  /// cast to the bit: one node per weight and region, for transposed views one per use.
  at::Tensor cast(const at::Tensor& argument, c10::ScalarType dtype);

  /// Forgets all, and keeps nothing from now on: the region has ended.
  void close();

  size_t size() const;

 private:
  struct Entry {
    /// Keeps the weight's address from being used again.
    c10::weak_intrusive_ptr<c10::TensorImpl> weight;
    WeightMark mark;
    at::Tensor cast;
  };
  at::Tensor cast_of_weight(const at::Tensor& weight, c10::ScalarType dtype);

  mutable std::mutex mutex_;
  std::map<std::pair<const c10::TensorImpl*, c10::ScalarType>, Entry> entries_;
  uint64_t epoch_ = 0;
  bool closed_ = false;
};

}  // namespace halfstep::detail
