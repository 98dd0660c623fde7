#pragma once
#include "halfstep/graph/replay.h"

#include <functional>
#include <vector>

namespace halfstep::detail {

/// What a step leaves beside the tensors it changes.
struct StepResults {
  std::vector<at::Tensor> outputs, gradients;
};

/// Runs `eager` on copies of the inputs and then the replay from the same state: tensors the
/// program reads and the random generators. Throws UsageError where one bit of the outputs,
/// gradients or those tensors differs, which are as `eager` left them then; else they are as the
/// replay did.
void check_replay(Replay& replay, const std::vector<at::Tensor>& inputs,
                  const std::function<StepResults(const std::vector<at::Tensor>&)>& eager);

}  // namespace halfstep::detail
