#pragma once
#include "halfstep/scaling/scale_rule.h"

#include <ATen/core/Tensor.h>

namespace halfstep::detail {

/// A loss scale and what its rule remembers, on the device of the first scaled tensor. Nothing
/// syncs but `values()`.
class ScaleState {
 public:
  explicit ScaleState(ScaleValues start) : start_(start) {}

  /// Makes the tensors on `device`; they are undefined before. `watch` keeps count of overflows
  /// that could not lower the scale.
  void materialize(const ScaleRule& rule, c10::Device device, bool watch);
  bool defined() const { return scale_.defined(); }

  /// 0-dim float32: what multiplies losses. Changed in place.
  const at::Tensor& scale() const { return scale_; }

  /// The scale as it is kept: the same, or 0-dim float64 where the arithmetic is float64.
  const at::Tensor& exact() const { return exact_scale_.defined() ? exact_scale_ : scale_; }

  /// 0-dim int32 count as in ScaleValues; undefined where nobody watches.
  const at::Tensor& stuck() const { return stuck_; }

  /// One update by `rule`; `found_inf` is a 0-dim float32 on the scale's device, not 0 after an
  /// overflow. torch's rule runs LibTorch's kernel; others run `apply_rule` on the CPU and the same
  /// in tensor operations elsewhere.
  void update(const ScaleRule& rule, const at::Tensor& found_inf);

  /// Any rule, also torch's, by each of the two ways: for tests that compare them.
  void update_on_host(const ScaleRule& rule, const at::Tensor& found_inf);
  void update_by_operations(const ScaleRule& rule, const at::Tensor& found_inf);

  /// Sets the scale alone.
  void assign(double scale);
  void assign(const at::Tensor& scale);

  /// Sets everything, also before `materialize`.
  void restore(const ScaleValues& values);

  /// Drops a count the rule would never reach; see clamp_growth_tracker.
  void clamp_growth_tracker(const ScaleRule& rule);

  /// What the tensors hold now, or the start values before there are any. Syncs with a GPU.
  ScaleValues values() const;

 private:
  void update_by_kernel(const ScaleRule& rule, const at::Tensor& found_inf);

  ScaleValues start_;
  at::Tensor scale_;               // 0-dim float32
  at::Tensor exact_scale_;         // 0-dim float64, where the arithmetic is float64
  at::Tensor growth_tracker_;      // 0-dim int32
  at::Tensor hysteresis_tracker_;  // 0-dim int32
  at::Tensor stuck_;               // 0-dim int32, where watched
};

}  // namespace halfstep::detail
