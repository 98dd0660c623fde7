#include "halfstep/graph/program.h"

#include "halfstep/autocast/op_names.h"
#include "halfstep/core/dtype.h"

#include <algorithm>
#include <numeric>
#include <sstream>

#include <ATen/core/Formatting.h>
#include <c10/util/accumulate.h>

namespace halfstep::detail {

namespace {

std::string list_of(const std::vector<int64_t>& numbers) {
  std::string text = "[";
  for (size_t i = 0; i < numbers.size(); ++i)
    text += (i == 0 ? "" : ", ") + std::to_string(numbers[i]);
  return text + "]";
}

std::string name_of(const Program& program, ValueId id) {
  const auto& value = program.values[size_t(id)];
  if (value.kind == ValueKind::computed) return "%" + std::to_string(id);
  if (value.kind == ValueKind::constant && value.tensor.numel() == 1)
    return c10::str(value.tensor.item());
  return value.name;
}

std::string argument_text(const c10::IValue& value) {
  if (value.isNone()) return "None";
  if (value.isTensor() || value.isTensorList() || value.isOptionalTensorList()) return "";
  if (value.isBool()) return value.toBool() ? "true" : "false";
  return c10::str(value);
}

/// Whether an argument says no more than to leave it out.
bool is_default(const c10::Argument& argument, const c10::IValue& value) {
  const auto& of_schema = argument.default_value();
  if (value.isNone()) return true;
  if (!of_schema || of_schema->isNone()) return value.isTensor();
  if (value.isScalar() && of_schema->isScalar())
    return value.toScalar().equal(of_schema->toScalar().to<double>());
  return value.tagKind() == of_schema->tagKind() && value == *of_schema;
}

std::string places_text(const Program& program, const std::vector<Instruction::Place>& places,
                        int32_t argument) {
  std::string text;
  bool in_list = false;
  for (const auto& place : places) {
    if (place.argument != argument) continue;
    if (!text.empty()) text += ", ";
    in_list = in_list || place.element >= 0;
    text += name_of(program, place.value);
  }
  return in_list ? "[" + text + "]" : text;
}

}  // namespace

Geometry Geometry::of(const at::Tensor& tensor) {
  return {tensor.sizes().vec(), tensor.strides().vec(), tensor.storage_offset(),
          tensor.scalar_type(), tensor.device(),        tensor.is_conj(),
          tensor.is_neg()};
}

int64_t Geometry::numel() const {
  return c10::multiply_integers(sizes);
}

bool Geometry::is_contiguous() const {
  int64_t expected = 1;
  for (size_t i = sizes.size(); i-- > 0;) {
    if (sizes[i] == 1) continue;
    if (strides[i] != expected) return false;
    expected *= sizes[i];
  }
  return true;
}

bool Geometry::is_dense() const {
  std::vector<size_t> by_stride(sizes.size());
  std::iota(by_stride.begin(), by_stride.end(), 0);
  std::sort(by_stride.begin(), by_stride.end(),
            [&](size_t a, size_t b) { return strides[a] < strides[b]; });
  int64_t expected = 1;
  for (const auto dimension : by_stride) {
    if (sizes[dimension] == 1) continue;
    if (strides[dimension] != expected) return false;
    expected *= sizes[dimension];
  }
  return expected > 0;
}

std::string Geometry::to_string() const {
  return std::string(dtype_name(dtype)) + list_of(sizes);
}

std::string to_string(const Program& program, const Instruction& instruction) {
  std::ostringstream out;
  bool first = true;
  for (const auto& place : instruction.results) {
    out << (first ? "" : ", ") << name_of(program, place.value);
    first = false;
  }
  if (!instruction.results.empty()) out << " = ";
  out << op_name(instruction.op.operator_name()) << '(';
  const auto& schema = instruction.op.schema().arguments();
  const char* separator = "";
  for (size_t i = 0; i < instruction.arguments.size(); ++i) {
    const auto places = places_text(program, instruction.operands, int32_t(i));
    if (places.empty() && is_default(schema[i], instruction.arguments[i])) continue;
    out << separator;
    separator = ", ";
    if (places.empty()) out << schema[i].name() << '=';
    out << (places.empty() ? argument_text(instruction.arguments[i]) : places);
  }
  out << ')';
  if (!instruction.results.empty()) {
    const auto& value = program.values[size_t(instruction.results.front().value)];
    out << "  " << value.geometry.to_string();
  }
  if (instruction.rehearsed) out << "  rehearsed";
  if (instruction.reorders) out << "  reordered";
  if (instruction.placed) out << "  placed";
  if (instruction.once) out << "  once";
  return out.str();
}

std::string Program::to_string() const {
  std::ostringstream out;
  for (const auto& value : values) {
    if (value.kind == ValueKind::input || value.kind == ValueKind::external) {
      out << (value.kind == ValueKind::input ? "input " : "reads ") << value.name << "  "
          << value.geometry.to_string() << (value.writes ? "  and writes it" : "") << '\n';
    }
  }
  std::optional<bool> backward;
  for (const auto& instruction : code) {
    if (instruction.backward != backward) {
      backward = instruction.backward;
      out << (*backward ? "backward\n" : "forward\n");
    }
    out << "  " << detail::to_string(*this, instruction) << '\n';
  }
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (outputs[i]) out << "output " << i << " is " << name_of(*this, *outputs[i]) << '\n';
  }
  size_t count = 0;
  for (const auto& gradient : gradients) count += gradient ? 1 : 0;
  out << code.size() << " calls, " << count << " gradients\n";
  return out.str();
}

}  // namespace halfstep::detail
