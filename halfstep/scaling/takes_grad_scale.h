#pragma once
#include "halfstep/scaling/unscale.h"

#include <optional>

#include <ATen/core/Tensor.h>

namespace halfstep {

/// Mark of an optimizer that divides by the scale and skips on overflow by itself, on the device
/// (the fused ones). Derive the optimizer from it beside torch::optim::Optimizer; GradScaler finds
/// it by dynamic_cast, fills the two tensors, calls `step()` and empties both again, also when
/// `step()` throws. Same contract as Python's `_step_supports_amp_scaling`; nothing syncs.
///
///   class FusedAdam : public torch::optim::Optimizer, public halfstep::TakesGradScale { … };
///
/// `step()` must leave parameters and state alone where `*found_inf` is not 0, and divide gradients
/// by `*grad_scale` where it has a value. Both lie on the scale's device: an optimizer with
/// parameters elsewhere copies them there.
class TakesGradScale {
 public:
  virtual ~TakesGradScale();

  /// 0-dim float32. Before `GradScaler::step` the user may put a factor here, by which the
  /// gradients are to be divided too, on any device; it holds for that one step, also where the
  /// scaler is disabled. In `step()`: scale times the
  /// factor, or, where the gradients were unscaled before, the factor alone (no value: nothing to
  /// divide by).
  std::optional<at::Tensor> grad_scale;

  /// 0-dim float32, not 0 where a gradient has an inf or NaN. No value: nobody checked; step.
  std::optional<at::Tensor> found_inf;

  /// Looks for infs and NaNs in the gradients, which it leaves alone, and says per device whether
  /// there are any; no value: GradScaler looks. GradScaler::step calls it right before `step()`, so
  /// that an optimizer that must read its gradients anyway reads them once. Must not sync.
  virtual std::optional<FoundInfs> check_gradients() { return std::nullopt; }

 protected:
  TakesGradScale() = default;
  TakesGradScale(const TakesGradScale&) = default;
  TakesGradScale& operator=(const TakesGradScale&) = default;
};

}  // namespace halfstep
