#include "halfstep/graph/passes/program_uses.h"

#include "halfstep/graph/op_traits.h"

#include <algorithm>

#include <ATen/core/enum_tag.h>

namespace halfstep::detail {

bool is_pure(const Instruction& instruction) {
  return instruction.writes.empty() && !instruction.op.hasTag(at::Tag::nondeterministic_seeded) &&
         !makes_unwritten(instruction.op);
}

bool is_view(const Program& program, const Instruction& instruction) {
  if (instruction.operands.empty() || instruction.results.empty()) return false;
  return std::all_of(
      instruction.results.begin(), instruction.results.end(), [&](const auto& result) {
        return std::any_of(
            instruction.operands.begin(), instruction.operands.end(), [&](const auto& operand) {
              return program.value(operand.value).memory == program.value(result.value).memory;
            });
      });
}

std::vector<bool> shared_memories(const Program& program) {
  int32_t count = 0;
  for (const auto& value : program.values) count = std::max(count, value.memory + 1);
  std::vector<bool> shared(static_cast<size_t>(count));
  const auto share = [&](ValueId id) { shared[size_t(program.value(id).memory)] = true; };
  for (const auto& instruction : program.code) {
    for (const auto id : instruction.writes) share(id);
  }
  for (const auto* ids : {&program.outputs, &program.gradients}) {
    for (const auto& id : *ids) {
      if (id) share(*id);
    }
  }
  return shared;
}

void rename(Program& program, const std::vector<ValueId>& to) {
  for (auto& instruction : program.code) {
    for (auto& operand : instruction.operands) operand.value = to[size_t(operand.value)];
    for (auto& id : instruction.writes) id = to[size_t(id)];
  }
  for (auto* ids : {&program.outputs, &program.gradients}) {
    for (auto& id : *ids) {
      if (id) id = to[size_t(*id)];
    }
  }
}

}  // namespace halfstep::detail
