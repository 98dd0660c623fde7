#include "halfstep/graph/out_ops.h"
#include "halfstep/graph/passes/pass.h"
#include "halfstep/graph/passes/program_uses.h"

#include <algorithm>
#include <numeric>

#include <ATen/core/enum_tag.h>

namespace halfstep::detail {

namespace {

/// Element by element, on the CPU, with one result that is new and large.
bool could_write(const Program& program, const Instruction& call) {
  return call.op.hasTag(at::Tag::pointwise) && is_pure(call) && !call.rehearsed && !call.is_alias &&
         call.keys.highestPriorityTypeId() == c10::DispatchKey::CPU && call.results.size() == 1 &&
         call.results[0].element < 0 && !is_view(program, call) &&
         !is_small(program.value(call.results[0].value).geometry);
}

/// Whether another operand of the call lies in the memory of `id`, but otherwise: it would be read
/// after it was written over.
bool is_seen_otherwise(const Program& program, const MemoryCalls& calls, const Instruction& call,
                       ValueId id) {
  return std::any_of(call.operands.begin(), call.operands.end(), [&](const auto& operand) {
    return calls.same(operand.value, id) &&
           program.value(operand.value).geometry != program.value(id).geometry;
  });
}

/// The operand whose memory nobody looks at after call `index`, and in which the result lies as it
/// would in its own.
std::optional<ValueId> spent_operand(const Program& program, const MemoryCalls& calls,
                                     size_t index) {
  const auto& call = program.code[index];
  const auto& result = program.value(call.results[0].value).geometry;
  for (const auto& operand : call.operands) {
    const auto id = operand.value;
    const auto& value = program.value(id);
    if (operand.element >= 0 || value.kind != ValueKind::computed || value.geometry != result ||
        !result.is_dense() || calls.lives_on(id) || calls.handed_out(id) ||
        calls.of(id).back() != index || is_seen_otherwise(program, calls, call, id))
      continue;
    // All of its memory: a part would keep the rest of it alive.
    const auto& maker = program.code[calls.of(id).front()];
    if (std::any_of(maker.results.begin(), maker.results.end(), [&](const auto& place) {
          const auto& made = program.value(place.value);
          return calls.same(place.value, id) && made.geometry.dtype == value.geometry.dtype &&
                 made.geometry.numel() == value.geometry.numel() && made.geometry.is_dense();
        }))
      return id;
  }
  return std::nullopt;
}

}  // namespace

int64_t write_in_place(Program& program) {
  const MemoryCalls calls(program);
  std::vector<int32_t> now_in(program.values.size());  // by memory: where its values lie then
  std::iota(now_in.begin(), now_in.end(), 0);
  int64_t count = 0;
  for (size_t i = 0; i < program.code.size(); ++i) {
    auto& call = program.code[i];
    if (!could_write(program, call)) continue;
    const auto into = spent_operand(program, calls, i);
    if (!into) continue;
    auto out = placed_call(call.op);
    if (!out) continue;
    call.op = out->op;
    for (auto& argument : out->more) call.arguments.push_back(std::move(argument));
    call.operands.push_back({int32_t(call.arguments.size()), -1, *into});
    call.arguments.emplace_back(at::Tensor());
    call.writes = {*into};
    const auto memory_of = [&](ValueId id) -> int32_t& {
      return now_in[size_t(program.value(id).memory)];
    };
    memory_of(call.results[0].value) = memory_of(*into);
    ++count;
  }
  for (auto& value : program.values) value.memory = now_in[size_t(value.memory)];
  return count;
}

}  // namespace halfstep::detail
