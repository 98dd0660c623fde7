#pragma once
#include <vector>

#include <ATen/core/Tensor.h>

namespace halfstep::detail {

/// Gradients as they were before a call of several parts, of which a later one may throw.
class GradientsBefore {
 public:
  explicit GradientsBefore(std::vector<at::Tensor> parameters);
  /// Puts the tensors that were there back, with what was in them.
  void restore();

 private:
  std::vector<at::Tensor> parameters_, gradients_, copies_;
};

}  // namespace halfstep::detail
