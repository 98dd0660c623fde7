#include "halfstep/graph/op_traits.h"

#include <algorithm>
#include <array>
#include <string_view>

#include <ATen/core/List.h>
#include <ATen/core/enum_tag.h>

namespace halfstep::detail {

namespace {

bool starts_with(std::string_view text, std::string_view start) {
  return text.substr(0, start.size()) == start;
}

bool ends_with(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

// In-place ops whose result does not depend on what was there.
constexpr std::array<std::string_view, 12> kOverwriters = {
    "aten::fill_",   "aten::zero_",       "aten::copy_",      "aten::random_",
    "aten::normal_", "aten::uniform_",    "aten::bernoulli_", "aten::exponential_",
    "aten::cauchy_", "aten::log_normal_", "aten::geometric_", "aten::eye_"};

bool is_overwriter(std::string_view name) {
  return std::find(kOverwriters.begin(), kOverwriters.end(), name) != kOverwriters.end();
}

std::optional<size_t> argument_named(const c10::OperatorHandle& op, std::string_view name) {
  const auto& arguments = op.schema().arguments();
  for (size_t i = 0; i < arguments.size(); ++i) {
    if (arguments[i].name() == name) return i;
  }
  return std::nullopt;
}

bool is_running_statistic(const c10::OperatorHandle& op, size_t index,
                          c10::ArrayRef<c10::IValue> arguments) {
  if (!starts_with(op.schema().arguments()[index].name(), "running_")) return false;
  for (const auto* name : {"training", "train", "use_input_stats"}) {
    if (const auto training = argument_named(op, name)) return arguments[*training].toBool();
  }
  return false;
}

// addmm and its kin don't look at `self` where beta is 0.
bool is_ignored(const c10::OperatorHandle& op, size_t index, c10::ArrayRef<c10::IValue> arguments) {
  if (index != 0 || !starts_with(op.schema().name(), "aten::")) return false;
  const auto beta = argument_named(op, "beta");
  return beta && arguments[*beta].isScalar() && arguments[*beta].toScalar().equal(0);
}

bool holds_mask(const c10::IValue& value) {
  const auto is_mask = [](const at::Tensor& tensor) {
    return tensor.defined() &&
           (tensor.scalar_type() == c10::kBool || tensor.scalar_type() == c10::kByte);
  };
  if (!value.isOptionalTensorList()) return false;
  for (const std::optional<at::Tensor> tensor : value.toOptionalTensorList()) {
    if (tensor && is_mask(*tensor)) return true;
  }
  return false;
}

}  // namespace

ArgumentUse argument_use(const c10::OperatorHandle& op, size_t index,
                         c10::ArrayRef<c10::IValue> arguments) {
  const auto& argument = op.schema().arguments()[index];
  const std::string_view name = op.schema().name();
  if (argument.is_out()) return ArgumentUse::write;
  if (const auto* alias = argument.alias_info()) {
    if (!alias->isWrite()) return ArgumentUse::metadata;
    return is_overwriter(name) || is_ignored(op, index, arguments) ? ArgumentUse::write
                                                                   : ArgumentUse::read_write;
  }
  if ((ends_with(name, "_like") && starts_with(name, "aten::")) ||
      starts_with(name, "aten::new_") || is_ignored(op, index, arguments))
    return ArgumentUse::metadata;
  return is_running_statistic(op, index, arguments) ? ArgumentUse::read_write : ArgumentUse::read;
}

bool makes_unwritten(const c10::OperatorHandle& op) {
  const std::string_view name = op.schema().name();
  return starts_with(name, "aten::empty") || starts_with(name, "aten::new_empty") ||
         starts_with(name, "aten::_empty");
}

bool is_question(const c10::OperatorHandle& op) {
  if (starts_with(op.schema().name(), "profiler::")) return true;
  const auto& returns = op.schema().returns();
  const auto& arguments = op.schema().arguments();
  const bool writes = std::any_of(arguments.begin(), arguments.end(), [](const auto& argument) {
    return argument.alias_info() != nullptr && argument.alias_info()->isWrite();
  });
  if (returns.empty() || writes) return false;
  return std::none_of(returns.begin(), returns.end(), [](const c10::Argument& result) {
    const auto& type = *result.type();
    return type.kind() == c10::TypeKind::TensorType || type.kind() == c10::TypeKind::ListType ||
           type.kind() == c10::TypeKind::OptionalType;
  });
}

std::optional<std::string> why_not_recorded(const c10::OperatorHandle& op,
                                            c10::ArrayRef<c10::IValue> arguments) {
  const std::string_view name = op.schema().name();
  if (op.hasTag(at::Tag::data_dependent_output))
    return "reads a value on the host, which a replay can't follow; keep it a tensor "
           "(item(), is_nonzero and equal don't belong into build), or compute it outside";
  if (op.hasTag(at::Tag::dynamic_output_shape) && name != "aten::index")
    return "makes a tensor whose size depends on values; use a mask and where(), or call it "
           "outside";
  if (name == "aten::index" && holds_mask(arguments[1]))
    return "picks by a mask, so its size depends on values; use where(), or index by integers";
  if (name == "aten::set_" || name == "aten::resize_" || name == "aten::resize_as_")
    return "gives a tensor other memory, which a replay would not follow; make a new tensor";
  return std::nullopt;
}

}  // namespace halfstep::detail
