#include "halfstep/graph/passes/pass.h"
#include "halfstep/graph/passes/program_uses.h"

#include <numeric>
#include <utility>

namespace halfstep::detail {

namespace {

bool is_cast(const Instruction& call) {
  return call.op.schema().name() == "aten::_to_copy" && is_pure(call) &&
         call.operands.size() == 1 && call.results.size() == 1;
}

/// Whether each number of `narrow` is one of `wide`.
bool holds(c10::ScalarType wide, c10::ScalarType narrow) {
  const bool is_16_bits = narrow == c10::kBFloat16 || narrow == c10::kHalf;
  return (wide == c10::kFloat && is_16_bits) ||
         (wide == c10::kDouble && (is_16_bits || narrow == c10::kFloat));
}

}  // namespace

int64_t drop_inverse_casts(Program& program) {
  const auto shared = shared_memories(program);
  const auto is_shared = [&](ValueId id) { return shared[size_t(program.value(id).memory)]; };
  std::vector<ValueId> to(program.values.size());
  std::iota(to.begin(), to.end(), 0);
  std::vector<std::optional<ValueId>> cast_from(program.values.size());
  std::vector<Instruction> kept;
  for (auto& call : program.code) {
    for (auto& operand : call.operands) operand.value = to[size_t(operand.value)];
    if (is_cast(call)) {
      const auto wide = call.operands.front().value, back = call.results.front().value;
      cast_from[size_t(back)] = wide;
      if (const auto first = cast_from[size_t(wide)]; first) {
        const auto& was = program.value(*first).geometry;
        const auto& is = program.value(back).geometry;
        if (was.dtype == is.dtype && lie_alike(was, is) &&
            holds(program.value(wide).geometry.dtype, was.dtype) && !is_shared(*first) &&
            !is_shared(wide) && !is_shared(back)) {
          to[size_t(back)] = *first;
          continue;
        }
      }
    }
    kept.push_back(std::move(call));
  }
  const auto count = int64_t(program.code.size() - kept.size());
  program.code = std::move(kept);
  rename(program, to);
  return count;
}

}  // namespace halfstep::detail
