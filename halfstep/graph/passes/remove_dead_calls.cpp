#include "halfstep/graph/passes/pass.h"
#include "halfstep/graph/passes/program_uses.h"

#include <algorithm>

namespace halfstep::detail {

int64_t remove_dead_calls(Program& program) {
  std::vector<bool> used(program.values.size());
  for (const auto* ids : {&program.outputs, &program.gradients}) {
    for (const auto& id : *ids) {
      if (id) used[size_t(*id)] = true;
    }
  }
  std::vector<Instruction> kept;  // last to first
  for (auto it = program.code.rbegin(); it != program.code.rend(); ++it) {
    const bool needed = !is_pure(*it) || it->results.empty() ||
                        std::any_of(it->results.begin(), it->results.end(),
                                    [&](const auto& place) { return used[size_t(place.value)]; });
    if (!needed) continue;
    for (const auto& operand : it->operands) used[size_t(operand.value)] = true;
    kept.push_back(std::move(*it));
  }
  std::reverse(kept.begin(), kept.end());
  const auto count = int64_t(program.code.size() - kept.size());
  program.code = std::move(kept);
  return count;
}

}  // namespace halfstep::detail
