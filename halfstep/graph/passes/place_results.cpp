#include "halfstep/graph/op_traits.h"
#include "halfstep/graph/out_ops.h"
#include "halfstep/graph/passes/pass.h"
#include "halfstep/graph/passes/program_uses.h"

#include <algorithm>

namespace halfstep::detail {

namespace {

class Placing {
 public:
  explicit Placing(Program& program)
      : program_(program),
        calls_(program),
        shared_(shared_memories(program)),
        unsteady_(shared_.size()),
        steady_(program.values.size()) {
    for (size_t id = 0; id < program.values.size(); ++id) {
      const auto kind = program.values[id].kind;
      steady_[id] = kind == ValueKind::external || kind == ValueKind::constant;
    }
    for (size_t i = 0; i < program.code.size(); ++i) {
      for (const auto& result : program.code[i].results) {
        if (makes_anew(program.code[i], result) && calls_.of(result.value).front() != i)
          unsteady_[memory_of(result.value)] = true;
      }
    }
  }

  int64_t run() {
    int64_t count = 0;
    for (size_t i = 0; i < program_.code.size(); ++i) {
      auto& call = program_.code[i];
      if (!is_pure(call) || call.rehearsed || call.results.empty()) continue;
      if (is_view(program_, call) ? looks_at_steady(call) : is_same_each_time(call)) {
        call.once = true;
        for (const auto& result : call.results) steady_[size_t(result.value)] = true;
      } else if (!place(call, i)) {
        continue;
      }
      ++count;
    }
    return count;
  }

 private:
  size_t memory_of(ValueId id) const { return size_t(program_.value(id).memory); }

  /// Whether a result is neither a view of an operand nor an operand that the call wrote into.
  bool makes_anew(const Instruction& call, const Instruction::Place& result) const {
    const auto& returns = call.op.schema().returns();
    return returns[size_t(result.argument)].alias_info() == nullptr &&
           std::none_of(call.writes.begin(), call.writes.end(),
                        [&](ValueId id) { return memory_of(id) == memory_of(result.value); });
  }

  bool looks_at_steady(const Instruction& call) const {
    return std::all_of(call.operands.begin(), call.operands.end(), [&](const auto& operand) {
      return steady_[size_t(operand.value)] && !unsteady_[memory_of(operand.value)];
    });
  }

  /// Numbers that depend on nothing: ones_like, arange. Of ops that are not LibTorch's nobody
  /// knows.
  bool is_same_each_time(const Instruction& call) const {
    return call.op.schema().name().starts_with("aten::") &&
           std::all_of(call.operands.begin(), call.operands.end(),
                       [&](const auto& operand) {
                         const auto argument = size_t(operand.argument);
                         return operand.element < 0 &&
                                call.op.schema().arguments()[argument].alias_info() == nullptr &&
                                argument_use(call.op, argument, call.arguments) ==
                                    ArgumentUse::metadata;
                       }) &&
           std::none_of(call.results.begin(), call.results.end(), [&](const auto& result) {
             return shared_[memory_of(result.value)] || unsteady_[memory_of(result.value)] ||
                    !is_small(program_.value(result.value).geometry);
           });
  }

  bool can_stay(ValueId id, size_t call) const {
    const auto& geometry = program_.value(id).geometry;
    return calls_.of(id).front() == call && !calls_.handed_out(id) && !calls_.lives_on(id) &&
           !unsteady_[memory_of(id)] && geometry.offset == 0 && geometry.is_dense() &&
           is_small(geometry);
  }

  bool place(Instruction& call, size_t index) {
    if (call.is_alias || call.keys.highestPriorityTypeId() != c10::DispatchKey::CPU ||
        call.results.size() != call.op.schema().returns().size())
      return false;
    for (const auto& result : call.results) {
      if (result.element >= 0 || !can_stay(result.value, index)) return false;
    }
    call.placed = placed_call(call.op);
    if (!call.placed) return false;
    for (const auto& result : call.results) steady_[size_t(result.value)] = true;
    return true;
  }

  Program& program_;
  const MemoryCalls calls_;
  const std::vector<bool> shared_;
  std::vector<bool> unsteady_;  // memories of which a value is made by several calls
  std::vector<bool> steady_;    // values that are the same tensor in each run
};

}  // namespace

int64_t place_results(Program& program) {
  const bool all_on_cpu =
      std::all_of(program.values.begin(), program.values.end(),
                  [](const Value& value) { return value.geometry.device.is_cpu(); });
  return all_on_cpu ? Placing(program).run() : 0;
}

}  // namespace halfstep::detail
