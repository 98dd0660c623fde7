#include "halfstep/graph/passes/pass.h"
#include "halfstep/graph/passes/program_uses.h"

#include <numeric>
#include <unordered_map>

namespace halfstep::detail {

namespace {

/// What a caller gets must be a tensor of its own: not an input or a parameter itself.
std::vector<bool> handed_out(const Program& program) {
  std::vector<bool> handed(program.values.size());
  for (const auto* ids : {&program.outputs, &program.gradients}) {
    for (const auto& id : *ids) {
      if (id) handed[size_t(*id)] = true;
    }
  }
  return handed;
}

}  // namespace

int64_t reuse_views(Program& program) {
  std::vector<ValueId> to(program.values.size());
  std::iota(to.begin(), to.end(), 0);
  std::unordered_map<int32_t, std::vector<ValueId>> of_memory;
  for (size_t id = 0; id < program.values.size(); ++id) {
    if (program.values[id].kind != ValueKind::computed)
      of_memory[program.values[id].memory].push_back(ValueId(id));
  }
  const auto handed = handed_out(program);
  std::vector<Instruction> kept;
  for (auto& instruction : program.code) {
    bool drop = false;
    if (is_pure(instruction) && instruction.results.size() == 1 && is_view(program, instruction)) {
      const auto id = instruction.results.front().value;
      for (const auto older : of_memory[program.value(id).memory]) {
        const bool same = program.value(older).geometry == program.value(id).geometry;
        const bool own = program.value(older).kind == ValueKind::computed;
        if (older != id && same && (own || !handed[size_t(id)])) {
          to[size_t(id)] = older;
          drop = true;
          break;
        }
      }
    }
    if (drop) continue;
    for (const auto& result : instruction.results)
      of_memory[program.value(result.value).memory].push_back(result.value);
    kept.push_back(std::move(instruction));
  }
  const auto dropped = int64_t(program.code.size() - kept.size());
  program.code = std::move(kept);
  rename(program, to);
  return dropped;
}

}  // namespace halfstep::detail
