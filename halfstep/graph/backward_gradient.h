#pragma once
#include "halfstep/core/debug_info.h"

#include <functional>

#include <ATen/core/Tensor.h>

namespace halfstep::detail {

/// While it lives, `loss.backward()` on this thread begins with `start(loss)`, where no gradient is
/// given (1 where that is undefined): how a Graph scales a loss that its build calls backward on.
/// It also runs without autocast, as it does outside of a region. torch::autograd::backward and
/// torch::autograd::grad go on as ever.
class BackwardGradient {
 public:
  using Start = std::function<at::Tensor(const at::Tensor& loss)>;

  explicit BackwardGradient(Start start);
  ~BackwardGradient();
  BackwardGradient(const BackwardGradient&) = delete;
  BackwardGradient& operator=(const BackwardGradient&) = delete;

  /// How often it was asked.
  int64_t uses() const { return uses_; }

  at::Tensor start_of(const at::Tensor& loss);

 private:
  Start start_;
  int64_t uses_ = 0;
  BackwardGradient* outer_;
};

}  // namespace halfstep::detail
