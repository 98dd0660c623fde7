#pragma once
#include <algorithm>
#include <cstdint>
#include <optional>

#include <ATen/core/TensorBase.h>
#include <c10/core/StorageImpl.h>
#include <c10/util/DimVector.h>

namespace halfstep::detail {

/// Knows a tensor as it is now again: by version counter, memory and strides. Never an inference
/// tensor, which has no version. Keeps no memory alive.
class WeightMark {
 public:
  WeightMark() = default;
  explicit WeightMark(const at::TensorBase& weight) {
    if (weight.is_inference()) return;
    version_ = weight._version();
    storage_ = weight.storage().getWeakStorageImpl();
    address_ = weight.const_data_ptr();
    strides_ = weight.strides();
  }

  /// False where nothing was ever marked.
  bool is_set() const { return version_.has_value(); }

  /// True where nobody has written it since, nor given it other memory or strides.
  bool is_of(const at::TensorBase& weight) const {
    return is_set() && !weight.is_inference() && weight._version() == *version_ &&
           weight.const_data_ptr() == address_ &&
           weight.storage().unsafeGetStorageImpl() == storage_->_unsafe_get_target() &&
           std::equal(strides_.begin(), strides_.end(), weight.strides().begin(),
                      weight.strides().end());
  }

 private:
  std::optional<std::int64_t> version_;
  // Memory that was freed may be handed out again under its address, but not with this beside it.
  std::optional<c10::weak_intrusive_ptr<c10::StorageImpl>> storage_;
  const void* address_ = nullptr;
  c10::DimVector strides_;
};

}  // namespace halfstep::detail
