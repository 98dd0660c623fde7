#pragma once
#include <cstdint>
#include <optional>

#include <ATen/core/Tensor.h>

namespace halfstep::optim::detail {

/// Knows a tensor as it is now again: by version counter and address. Never an inference tensor,
/// which has no version.
class WeightMark {
 public:
  WeightMark() = default;
  explicit WeightMark(const at::Tensor& weight) : address_(weight.const_data_ptr()) {
    if (!weight.is_inference()) version_ = weight._version();
  }

  /// False where nothing was ever marked.
  bool is_set() const { return version_.has_value(); }

  /// True where nobody has written it since, nor given it other memory.
  bool is_of(const at::Tensor& weight) const {
    return is_set() && !weight.is_inference() && weight._version() == *version_ &&
           weight.const_data_ptr() == address_;
  }

 private:
  std::optional<std::int64_t> version_;
  const void* address_ = nullptr;
};

}  // namespace halfstep::optim::detail
