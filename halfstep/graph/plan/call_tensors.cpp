#include "halfstep/graph/plan/call_tensors.h"

#include "halfstep/core/dtype.h"

#include <algorithm>
#include <string_view>

#include <c10/core/DeviceType.h>

namespace halfstep::detail {

namespace {

template <class Visit>
void visit(const c10::IValue& value, const Visit& visit_tensor) {
  if (value.isTensor()) {
    if (value.toTensor().defined()) visit_tensor(value.toTensor());
  } else if (value.isTensorList()) {
    for (const auto& item : value.toListRef()) {
      if (item.toTensor().defined()) visit_tensor(item.toTensor());
    }
  } else if (value.isOptionalTensorList()) {
    for (const std::optional<at::Tensor> item : value.toOptionalTensorList()) {
      if (item && item->defined()) visit_tensor(*item);
    }
  }
}

bool starts_with(std::string_view text, std::string_view start) {
  return text.substr(0, start.size()) == start;
}

/// A batch norm's running statistics, which it writes without saying so, and the weight and bias
/// that must have their dtype.
bool is_of_batch_norm(const c10::OperatorHandle& op, size_t argument) {
  const auto& arguments = op.schema().arguments();
  const std::string_view name = arguments[argument].name();
  if (starts_with(name, "running_")) return true;
  return (name == "weight" || name == "bias") &&
         std::any_of(arguments.begin(), arguments.end(),
                     [](const auto& other) { return starts_with(other.name(), "running_"); });
}

}  // namespace

std::vector<CallTensor> operands_of(const c10::OperatorHandle& op,
                                    c10::ArrayRef<c10::IValue> arguments) {
  std::vector<CallTensor> operands;
  const auto& schema = op.schema().arguments();
  for (size_t i = 0; i < arguments.size(); ++i) {
    const auto* alias = schema[i].alias_info();
    const bool is_written = schema[i].is_out() || (alias != nullptr && alias->isWrite());
    const bool stays = is_of_batch_norm(op, i);
    visit(arguments[i], [&](const at::Tensor& tensor) {
      operands.push_back({tensor, i, is_written, stays});
    });
  }
  return operands;
}

std::vector<CallTensor> results_of(const c10::OperatorHandle& op, const torch::jit::Stack& stack) {
  std::vector<CallTensor> results;
  const auto count = op.schema().returns().size();
  for (size_t i = 0; i < count; ++i) {
    visit(stack[stack.size() - count + i], [&](const at::Tensor& tensor) {
      results.push_back({tensor, i});
    });
  }
  return results;
}

bool any_floating(const std::vector<CallTensor>& tensors) {
  return std::any_of(tensors.begin(), tensors.end(),
                     [](const CallTensor& each) { return each.tensor.is_floating_point(); });
}

std::string type_of(const at::Tensor& tensor, c10::DeviceType device_type) {
  const auto type = tensor.device().type();
  return dtype_name(tensor.scalar_type()) +
         (type == device_type ? "" : "@" + c10::DeviceTypeName(type, /*lower_case=*/true));
}

bool casts_low_operands(const c10::OperatorHandle& op, const std::vector<CallTensor>& operands,
                        const std::vector<bool>& is_planned) {
  const std::string_view name = op.schema().name();
  if (name == "aten::type_as" || name == "aten::to" || name == "aten::copy") return false;
  for (size_t i = 0; i < operands.size(); ++i) {
    if (is_planned[i] && !operands[i].is_written && !operands[i].stays_float32) return true;
  }
  return false;
}

}  // namespace halfstep::detail
