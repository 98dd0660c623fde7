#pragma once
#include "halfstep/core/debug_info.h"

#include <functional>

#include <ATen/core/Tensor.h>

namespace halfstep::detail {

/// While it lives, `loss.backward()` on this thread begins with `start(loss)` in the place of a
/// gradient of 1, where none is given: how a Graph scales a loss that its build calls backward on.
/// torch::autograd::backward and torch::autograd::grad, given no gradient, still begin with 1.
class BackwardGradient {
 public:
  using Start = std::function<at::Tensor(const at::Tensor& loss)>;

  explicit BackwardGradient(Start start);
  ~BackwardGradient();
  BackwardGradient(const BackwardGradient&) = delete;
  BackwardGradient& operator=(const BackwardGradient&) = delete;

  /// How often it was asked.
  int64_t uses() const { return uses_; }

  /// What begins a backward of `loss` on this thread; undefined where nothing of ours does.
  static at::Tensor start_of(const at::Tensor& loss);

 private:
  Start start_;
  int64_t uses_ = 0;
  BackwardGradient* outer_;
};

}  // namespace halfstep::detail
