#include "halfstep/graph/capture/capturable.h"

#include "halfstep/autocast/op_names.h"

#include <algorithm>

#include <c10/util/StringUtil.h>

namespace halfstep::detail {

namespace {

bool lies_in(const Program& program, ValueId id, ValueKind kind) {
  return std::any_of(program.values.begin(), program.values.end(), [&](const Value& value) {
    return value.kind == kind && value.memory == program.value(id).memory;
  });
}

/// Of elements of a tensor with these strides two may be one: such a tensor can't be copied into.
bool overlaps(const Geometry& geometry) {
  for (size_t i = 0; i < geometry.sizes.size(); ++i) {
    if (geometry.sizes[i] > 1 && geometry.strides[i] == 0) return true;
  }
  return false;
}

/// A call that computes on another device than this one, by its tensors.
bool is_elsewhere(const Program& program, const Instruction& instruction, c10::Device device) {
  bool any = false;
  for (const auto* places : {&instruction.operands, &instruction.results}) {
    for (const auto& place : *places) {
      if (program.value(place.value).geometry.device == device) return false;
      any = true;
    }
  }
  return any;
}

std::string why_not(const Value& value, c10::Device device) {
  if (value.kind != ValueKind::input && value.kind != ValueKind::external) return "";
  if (value.geometry.device != device)
    return c10::str(value.name, " lies on ", value.geometry.device, ", not on ", device);
  if (value.kind == ValueKind::external) return "";
  if (value.writes) return value.name + " is changed in place";
  if (overlaps(value.geometry)) return "elements of " + value.name + " share memory";
  return "";
}

}  // namespace

std::string why_not_captured(const Program& program, c10::Device device) {
  if (program.code.empty()) return "there is nothing to compute";
  for (const auto& value : program.values) {
    if (auto why = why_not(value, device); !why.empty()) return why;
  }
  if (program.fixed_offsets) return "build uses as_strided on an input";
  for (const auto& instruction : program.code) {
    if (is_elsewhere(program, instruction, device))
      return op_name(instruction.op.operator_name()) + " does not run on " + device.str();
  }
  for (size_t i = 0; i < program.outputs.size(); ++i) {
    const auto id = program.outputs[i];
    if (id &&
        (lies_in(program, *id, ValueKind::input) || lies_in(program, *id, ValueKind::external)))
      return c10::str("output ", i, " lies in the memory of an input, parameter or buffer");
  }
  for (const auto& id : program.gradients) {
    if (id && lies_in(program, *id, ValueKind::input))
      return "a gradient lies in the memory of an input";
  }
  return "";
}

std::vector<at::Generator> generators_of(const Program& program) {
  std::vector<at::Generator> generators;
  for (const auto& instruction : program.code) {
    for (const auto& argument : instruction.arguments) {
      if (!argument.isGenerator()) continue;
      const auto generator = argument.toGenerator();
      if (generator.defined() &&
          std::find(generators.begin(), generators.end(), generator) == generators.end())
        generators.push_back(generator);
    }
  }
  return generators;
}

}  // namespace halfstep::detail
