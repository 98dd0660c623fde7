#pragma once
#include <optional>

#include <ATen/core/Tensor.h>

namespace halfstep {

/// What one `GradScaler::step` did. Difference from Python, which does not tell whether it stepped.
/// Holds its own tensor, so it may be read at any later time. Not for use by two threads at once.
class StepResult {
 public:
  /// Already known on the host.
  static StepResult known(bool stepped, at::Tensor found_inf, at::Tensor loss);

  /// Known only on the device of `found_inf` (0-dim float32, 0: it stepped).
  static StepResult on_device(at::Tensor found_inf, at::Tensor loss);

  /// Whether the optimizer changed the parameters. Syncs with the device at the first call where
  /// `is_known()` is false (optimizers that take the scale), never otherwise.
  bool stepped() const;

  /// True where `stepped()` does not sync.
  bool is_known() const { return stepped_.has_value(); }

  /// 0-dim float32 on the scale's device, 0 where the optimizer stepped: for code that must follow
  /// a skip without a sync. Undefined for a disabled scaler, and where nobody checks for overflow.
  const at::Tensor& found_inf() const { return found_inf_; }

  /// What the optimizer's `step` returned: the closure's loss. Undefined where it was skipped or
  /// had no closure.
  const at::Tensor& loss() const { return loss_; }

 private:
  StepResult(std::optional<bool> stepped, at::Tensor found_inf, at::Tensor loss);

  mutable std::optional<bool> stepped_;
  at::Tensor found_inf_;
  at::Tensor loss_;
};

}  // namespace halfstep
