#include "halfstep/graph/passes/program_uses.h"

#include "halfstep/graph/op_traits.h"

#include <algorithm>
#include <numeric>

#include <ATen/core/enum_tag.h>

namespace halfstep::detail {

bool is_pure(const Instruction& instruction) {
  return instruction.writes.empty() && !instruction.op.hasTag(at::Tag::nondeterministic_seeded) &&
         !makes_unwritten(instruction.op);
}

bool is_small(const Geometry& geometry) {
  constexpr int64_t kMostBytes = 1 << 16;
  return geometry.numel() * int64_t(c10::elementSize(geometry.dtype)) <= kMostBytes;
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

std::optional<ValueId> operand_of(const Instruction& instruction, int32_t argument) {
  for (const auto& place : instruction.operands) {
    if (place.argument == argument && place.element < 0) return place.value;
  }
  return std::nullopt;
}

std::optional<ValueId> result_of(const Instruction& instruction, int32_t result) {
  for (const auto& place : instruction.results) {
    if (place.argument == result && place.element < 0) return place.value;
  }
  return std::nullopt;
}

namespace {

bool any_between(const std::vector<size_t>& calls, size_t after, size_t before) {
  const auto next = std::upper_bound(calls.begin(), calls.end(), after);
  return next != calls.end() && *next < before;
}

}  // namespace

bool lie_alike(const Geometry& a, const Geometry& b) {
  return a.sizes == b.sizes && a.strides == b.strides && a.device == b.device;
}

MemoryCalls::MemoryCalls(const Program& program) {
  size_t count = 0;
  for (const auto& value : program.values) {
    memory_.push_back(static_cast<size_t>(value.memory));
    count = std::max(count, memory_.back() + 1);
  }
  calls_.resize(count);
  writes_.resize(count);
  handed_out_.resize(count);
  lives_on_.resize(count);
  for (const auto& value : program.values) {
    if (value.kind != ValueKind::computed) lives_on_[static_cast<size_t>(value.memory)] = true;
  }
  const auto add = [](std::vector<size_t>& calls, size_t call) {
    if (calls.empty() || calls.back() != call) calls.push_back(call);
  };
  for (size_t i = 0; i < program.code.size(); ++i) {
    const auto& call = program.code[i];
    for (const auto* places : {&call.operands, &call.results}) {
      for (const auto& place : *places) add(calls_[memory_of(place.value)], i);
    }
    for (const auto id : call.writes) add(writes_[memory_of(id)], i);
  }
  for (const auto* ids : {&program.outputs, &program.gradients}) {
    for (const auto& id : *ids) {
      if (id) handed_out_[memory_of(*id)] = true;
    }
  }
}

bool MemoryCalls::touched(ValueId id, size_t after, size_t before) const {
  return any_between(calls_[memory_of(id)], after, before);
}

bool MemoryCalls::written(ValueId id, size_t after, size_t before) const {
  return any_between(writes_[memory_of(id)], after, before);
}

namespace {

/// Views of a value lie where the one is that stands in its place.
void join_memories(Program& program, const std::vector<ValueId>& to) {
  std::vector<int32_t> same_as(program.values.size());
  std::iota(same_as.begin(), same_as.end(), 0);
  const auto root = [&](ValueId id) {
    auto memory = program.value(id).memory;
    while (same_as[size_t(memory)] != memory) memory = same_as[size_t(memory)];
    return memory;
  };
  for (size_t id = 0; id < to.size(); ++id) {
    const auto from = root(ValueId(id)), into = root(to[id]);
    same_as[size_t(from)] = into;
  }
  std::vector<int32_t> joined(program.values.size());
  for (size_t id = 0; id < joined.size(); ++id) joined[id] = root(ValueId(id));
  for (size_t id = 0; id < joined.size(); ++id) program.values[id].memory = joined[id];
}

}  // namespace

void rename(Program& program, const std::vector<ValueId>& to) {
  join_memories(program, to);
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
