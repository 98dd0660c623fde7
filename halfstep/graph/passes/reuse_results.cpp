#include "halfstep/graph/compare_programs.h"
#include "halfstep/graph/passes/pass.h"
#include "halfstep/graph/passes/program_uses.h"

#include <algorithm>
#include <numeric>

namespace halfstep::detail {

namespace {

bool in_shared_memory(const Program& program, const std::vector<bool>& shared,
                      const Instruction& instruction) {
  return std::any_of(
      instruction.results.begin(), instruction.results.end(),
      [&](const auto& place) { return shared[size_t(program.value(place.value).memory)]; });
}

/// Whether a call after `first` and before `second` writes what both read.
bool written_between(const Program& program, size_t first, size_t second) {
  for (size_t i = first + 1; i < second; ++i) {
    for (const auto written : program.code[i].writes) {
      for (const auto& operand : program.code[first].operands) {
        if (program.value(operand.value).memory == program.value(written).memory) return true;
      }
    }
  }
  return false;
}

}  // namespace

int64_t reuse_results(Program& program) {
  std::vector<ValueId> to(program.values.size());
  std::iota(to.begin(), to.end(), 0);
  const auto shared = shared_memories(program);
  std::vector<bool> dropped(program.code.size());
  for (size_t j = 0; j < program.code.size(); ++j) {
    auto& second = program.code[j];
    for (auto& operand : second.operands) operand.value = to[size_t(operand.value)];
    if (!is_pure(second) || second.results.empty() || is_view(program, second) ||
        in_shared_memory(program, shared, second))
      continue;
    for (size_t i = 0; i < j; ++i) {
      const auto& first = program.code[i];
      if (dropped[i] || !same_call(first, second) || in_shared_memory(program, shared, first) ||
          written_between(program, i, j))
        continue;
      for (size_t k = 0; k < second.results.size(); ++k)
        to[size_t(second.results[k].value)] = first.results[k].value;
      dropped[j] = true;
      break;
    }
  }
  std::vector<Instruction> kept;
  for (size_t i = 0; i < program.code.size(); ++i) {
    if (!dropped[i]) kept.push_back(std::move(program.code[i]));
  }
  const auto count = int64_t(program.code.size() - kept.size());
  program.code = std::move(kept);
  rename(program, to);
  return count;
}

}  // namespace halfstep::detail
