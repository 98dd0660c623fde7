#pragma once
#include "halfstep/optim_wrapper/clip_grad.h"

#include <cstdint>
#include <optional>

namespace halfstep {

/// What an OptimWrapper does around its optimizer.
///
///   OptimWrapperOptions().accumulative_counts(8).clip_grad(ClipGrad::norm(1))
class OptimWrapperOptions {
 public:
  /// Iterations whose gradients are added up for one step. Default: 1. At least 1.
  OptimWrapperOptions& accumulative_counts(int64_t value) {
    accumulative_counts_ = value;
    return *this;
  }
  int64_t accumulative_counts() const { return accumulative_counts_; }

  /// How gradients are clipped before a step. Default: not at all.
  OptimWrapperOptions& clip_grad(std::optional<ClipGrad> value) {
    clip_grad_ = value;
    return *this;
  }
  const std::optional<ClipGrad>& clip_grad() const { return clip_grad_; }

  /// Throws UsageError for a value out of range; `where` opens the message. The wrapper calls it.
  void validate(const char* where) const;

 private:
  int64_t accumulative_counts_ = 1;
  std::optional<ClipGrad> clip_grad_;
};

}  // namespace halfstep
