#pragma once
#include "halfstep/scaling/step_result.h"

#include <optional>

namespace halfstep::train {

/// What became of the newest training step, from its `GradScaler::step` until the loop takes it: at
/// once where the host knows it, else one step late, because a GPU that is waited for in each step
/// runs dry between two of them.
///
///   …the forward and backward of step n + 1…
///   if (const auto result = outcome.take()) count(*result);  // of step n
///   outcome.note(scaler.step(optimizer));                    // of step n + 1
///   if (outcome.is_known()) count(*outcome.take());          // a CPU's is known by now
///
/// Not thread-safe.
class LateOutcome {
 public:
  /// With `pretend`, no outcome is known before it is taken, on the CPU either: to test on one what
  /// a GPU makes of a loop.
  explicit LateOutcome(bool pretend = false) : pretend_(pretend) {}

  /// Keeps a step's result and starts to copy its answer to the host. Does not sync. Throws
  /// UsageError where the step before was not taken yet.
  void note(StepResult result);

  /// True where there is an outcome and take() does not wait for it.
  bool is_known() const;

  /// The outcome, known from here on; nothing where none was noted since the last take(). Waits for
  /// what the device had to do when it was noted.
  std::optional<StepResult> take();

 private:
  bool pretend_;
  std::optional<StepResult> result_;
};

}  // namespace halfstep::train
