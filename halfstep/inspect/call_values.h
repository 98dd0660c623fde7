#pragma once
#include <algorithm>

#include <ATen/core/Tensor.h>
#include <ATen/core/function_schema.h>
#include <ATen/core/ivalue.h>

namespace halfstep::inspect::detail {

/// Calls `f` with each defined tensor among the values, also in lists.
template <class F>
void for_each_tensor(c10::ArrayRef<c10::IValue> values, const F& f) {
  for (const auto& value : values) {
    if (value.isTensor()) {
      if (value.toTensor().defined()) f(value.toTensor());
    } else if (value.isTensorList()) {
      for_each_tensor(value.toListRef(), f);
    }
  }
}

/// Whether all an op gives are views of what it takes.
inline bool is_view(const c10::FunctionSchema& schema) {
  const auto& returns = schema.returns();
  return !returns.empty() && std::all_of(returns.begin(), returns.end(), [](const auto& each) {
    return each.alias_info() != nullptr && !each.alias_info()->isWrite();
  });
}

}  // namespace halfstep::inspect::detail
