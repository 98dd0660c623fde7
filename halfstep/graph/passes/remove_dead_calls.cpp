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
  std::vector<bool> needed(program.code.size());
  for (size_t i = program.code.size(); i-- > 0;) {
    const auto& instruction = program.code[i];
    needed[i] = !is_pure(instruction) || instruction.results.empty() ||
                std::any_of(instruction.results.begin(), instruction.results.end(),
                            [&](const auto& place) { return used[size_t(place.value)]; });
    if (!needed[i]) continue;
    for (const auto& operand : instruction.operands) used[size_t(operand.value)] = true;
  }
  std::vector<Instruction> kept;
  kept.reserve(program.code.size());
  for (size_t i = 0; i < program.code.size(); ++i) {
    if (needed[i]) kept.push_back(std::move(program.code[i]));
  }
  const auto count = int64_t(program.code.size() - kept.size());
  program.code = std::move(kept);
  return count;
}

}  // namespace halfstep::detail
