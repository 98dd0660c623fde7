#pragma once
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/ivalue.h>

namespace halfstep::detail {

/// What a trace and a planned run must see alike in an op call.

/// A tensor among the arguments or results of a call.
struct CallTensor {
  at::Tensor tensor;
  size_t place;                ///< of the argument or result
  bool is_written = false;     ///< the op changes it
  bool stays_float32 = false;  ///< see PlanNode::Operand
};

/// The defined tensors of the arguments, also those in lists, first to last.
std::vector<CallTensor> operands_of(const c10::OperatorHandle& op,
                                    c10::ArrayRef<c10::IValue> arguments);

/// The same for its results.
std::vector<CallTensor> results_of(const c10::OperatorHandle& op, const torch::jit::Stack& stack);

/// Calls `change` with each of these tensors again; where it returns a defined one, that takes its
/// place. Not for lists of optional tensors, which hold indices.
template <class Change>
void change_tensors(c10::IValue* values, size_t count, const Change& change) {
  for (size_t i = 0; i < count; ++i) {
    auto& value = values[i];
    if (value.isTensor()) {
      if (!value.toTensor().defined()) continue;
      if (auto changed = change(value.toTensor()); changed.defined()) value = std::move(changed);
    } else if (value.isTensorList()) {
      auto tensors = value.toTensorVector();
      bool any = false;
      for (auto& tensor : tensors) {
        if (!tensor.defined()) continue;
        auto changed = change(std::as_const(tensor));
        any = any || changed.defined();
        if (changed.defined()) tensor = std::move(changed);
      }
      if (any) value = std::move(tensors);
    }
  }
}

/// Whether one of them has a floating-point dtype: only such calls are nodes of a plan.
bool any_floating(const std::vector<CallTensor>& tensors);

/// PlanValue::type of a tensor, where the plan is for `device_type`.
std::string type_of(const at::Tensor& tensor, c10::DeviceType device_type);

/// Whether 16-bit operands of a call, which the build made such by itself, are cast as float32 ones
/// are: where it has one of these beside them, as autocast would do.
bool casts_low_operands(const c10::OperatorHandle& op, const std::vector<CallTensor>& operands,
                        const std::vector<bool>& is_planned);

}  // namespace halfstep::detail
