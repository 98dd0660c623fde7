#pragma once
#include "halfstep/graph/replay.h"

#include <functional>
#include <vector>

namespace halfstep::detail {

/// Runs `eager` on copies of the inputs and then `replay`, a run of `program`, on the inputs, from
/// the same state: tensors the program reads and the random generators. Throws UsageError where one
/// bit of the outputs, gradients or those tensors differs, or, of what calls that reorder
/// arithmetic had a part in, where one lies beyond reordering_bound(); the tensors are as the
/// replay left them in any case.
StepResults check_replay(
    const Program& program, const std::vector<at::Tensor>& inputs,
    const std::function<StepResults()>& replay,
    const std::function<StepResults(const std::vector<at::Tensor>& inputs)>& eager);

}  // namespace halfstep::detail
