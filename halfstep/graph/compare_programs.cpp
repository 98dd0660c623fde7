#include "halfstep/graph/compare_programs.h"

#include "halfstep/autocast/op_names.h"

#include <bit>
#include <cstdint>

#include <ATen/core/Formatting.h>
#include <ATen/ops/equal.h>

namespace halfstep::detail {

namespace {

bool same_bits(double a, double b) {
  return std::bit_cast<uint64_t>(a) == std::bit_cast<uint64_t>(b);
}

/// Equality of arguments without their tensors. Doubles by bits, so that a NaN equals itself.
bool same(const c10::IValue& a, const c10::IValue& b) {
  if (a.tagKind() != b.tagKind()) return false;
  if (a.isTensor()) return true;
  if (a.isGenerator()) return a.toGenerator() == b.toGenerator();
  if (a.isDouble()) return same_bits(a.toDouble(), b.toDouble());
  if (a.isTensorList()) return a.toListRef().size() == b.toListRef().size();
  if (a.isOptionalTensorList())
    return a.toOptionalTensorList().size() == b.toOptionalTensorList().size();
  return a == b;
}

std::string name(const Instruction& instruction) {
  return op_name(instruction.op.operator_name());
}

}  // namespace

bool same_call(const Instruction& first, const Instruction& second) {
  if (first.op.operator_name() != second.op.operator_name() || first.keys != second.keys ||
      first.operands != second.operands || first.rehearsed != second.rehearsed ||
      first.is_alias != second.is_alias)
    return false;
  for (size_t i = 0; i < first.arguments.size(); ++i) {
    if (!same(first.arguments[i], second.arguments[i])) return false;
  }
  return true;
}

std::optional<std::string> difference(const CallPlaces& places, const Program& first,
                                      const Program& second) {
  const auto count = std::min(first.code.size(), second.code.size());
  for (size_t i = 0; i < count; ++i) {
    const auto& a = first.code[i];
    const auto& b = second.code[i];
    const auto place = [&] { return places.of(first, i); };
    if (a.op.operator_name() != b.op.operator_name())
      return "call " + std::to_string(i) + place() + " was " + name(a) + " once and " + name(b) +
             " the next time";
    const auto& schema = a.op.schema().arguments();
    for (size_t j = 0; j < a.arguments.size(); ++j) {
      if (!same(a.arguments[j], b.arguments[j]))
        return c10::str("argument ", schema[j].name(), " of ", name(a), place(), " (call ", i,
                        ") was ", a.arguments[j], " once and ", b.arguments[j], " the next time");
    }
    if (a.operands != b.operands || a.results != b.results || a.rehearsed != b.rehearsed)
      return name(a) + place() + " (call " + std::to_string(i) +
             ") had other operands the next time";
  }
  if (first.code.size() != second.code.size())
    return c10::str("it made ", first.code.size(), " calls once and ", second.code.size(),
                    " the next time");
  if (first.values.size() != second.values.size()) return "it used other tensors the next time";
  for (size_t i = 0; i < first.values.size(); ++i) {
    const auto& a = first.values[i];
    const auto& b = second.values[i];
    if (a.kind != b.kind || a.geometry.sizes != b.geometry.sizes ||
        a.geometry.dtype != b.geometry.dtype)
      return "a tensor of " + a.geometry.to_string() + " was " + b.geometry.to_string() +
             " the next time";
    if (a.kind == ValueKind::constant && !at::equal(a.tensor, b.tensor))
      return c10::str("a number was ", a.tensor.item(), " once and ", b.tensor.item(),
                      " the next time");
    if (a.kind == ValueKind::external && !a.tensor.is_same(b.tensor))
      return "it read another tensor in the place of " + a.name + " the next time";
  }
  if (first.outputs != second.outputs) return "it returned other tensors the next time";
  if (first.gradients != second.gradients) return "other parameters got gradients the next time";
  return std::nullopt;
}

}  // namespace halfstep::detail
