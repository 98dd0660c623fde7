#pragma once
#include "halfstep/scaling/late_read.h"

#include <memory>
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

  /// Whether the optimizer changed the parameters. Waits where `is_known()` is false (optimizers
  /// that take the scale): for all that the device has to do, or, after `start_read()`, for what it
  /// had to do when that was called.
  bool stepped() const;

  /// True where `stepped()` does not wait. Never waits itself.
  bool is_known() const;

  /// Starts to copy the answer to the host, for code that can do without it for a step (a
  /// scheduler): `is_known()` turns true when it has arrived. Does not sync. At once on the CPU.
  ///
  ///   auto result = scaler.step(optimizer);
  ///   result.start_read();
  ///   if (previous && previous->stepped()) scheduler.step();  // one step late, hardly waits
  ///   previous = result;
  void start_read();

  /// 0-dim float32 on the scale's device, 0 where the optimizer stepped: for code that must follow
  /// a skip without a sync. Undefined for a disabled scaler, and where nobody checks for overflow.
  const at::Tensor& found_inf() const { return found_inf_; }

  /// What the optimizer's `step` returned: the closure's loss. Undefined where it was skipped or
  /// had no closure.
  const at::Tensor& loss() const { return loss_; }

 private:
  StepResult(std::optional<bool> stepped, at::Tensor found_inf, at::Tensor loss);

  mutable std::optional<bool> stepped_;
  std::shared_ptr<detail::LateRead> read_;
  at::Tensor found_inf_;
  at::Tensor loss_;
};

}  // namespace halfstep
