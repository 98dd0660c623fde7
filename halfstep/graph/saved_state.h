#pragma once
#include <utility>
#include <vector>

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

namespace halfstep::detail {

/// Tensors and the random generators of their devices (and the CPU's) as they were, so that a step
/// can run twice.
class SavedState {
 public:
  /// Copies `tensors`, but for undefined ones. Of `others` only the devices count.
  explicit SavedState(std::vector<at::Tensor> tensors, const std::vector<at::Tensor>& others = {});

  /// Puts back what has other bits now, and the generators.
  void restore();

  const std::vector<at::Tensor>& tensors() const { return tensors_; }

 private:
  void add_generators(const std::vector<at::Tensor>& tensors);
  void add_generator(c10::Device device);

  std::vector<at::Tensor> tensors_, copies_;
  std::vector<std::pair<at::Generator, at::Tensor>> generators_;
};

/// Copies that are no part of an autograd graph, and lie as the tensors do (strided_copy).
std::vector<at::Tensor> copies_of(const std::vector<at::Tensor>& tensors);

/// Whether shape, dtype and bits are equal; also where both are undefined.
bool same_bits(const at::Tensor& a, const at::Tensor& b);
/// The same, but a NaN may be another NaN.
bool same_bits_but_nans(const at::Tensor& a, const at::Tensor& b);

}  // namespace halfstep::detail
