#include "halfstep/train/loop/late_outcome.h"

#include "halfstep/core/error.h"

#include <utility>

namespace halfstep::train {

void LateOutcome::note(StepResult result) {
  HALFSTEP_CHECK_USAGE(!result_, "LateOutcome::note",
                       "a step's outcome must be taken before the next one is noted, but it was "
                       "not; call take() before GradScaler::step");
  result.start_read();
  result_ = std::move(result);
}

bool LateOutcome::is_known() const {
  return !pretend_ && result_ && result_->is_known();
}

std::optional<StepResult> LateOutcome::take() {
  auto taken = std::exchange(result_, std::nullopt);
  if (taken) taken->stepped();
  return taken;
}

}  // namespace halfstep::train
