#include "halfstep/autocast/ruled_call.h"

#include "halfstep/autocast/op_names.h"
#include "halfstep/core/error.h"

#include <algorithm>

#include <ATen/autocast_mode.h>

namespace halfstep::detail {

namespace {

/// Batch norm writes its running statistics without saying so in its schema: a cast copy would
/// take the write.
bool is_castable(const c10::Argument& argument) {
  return argument.name().rfind("running_", 0) != 0;
}

}  // namespace

RuledCall::RuledCall(const c10::OperatorHandle& op, c10::DeviceType device_type)
    : op_(op),
      device_type_(device_type),
      autocast_key_(at::autocast::get_autocast_dispatch_key_from_device_type(device_type)),
      below_autocast_(c10::DispatchKeySet::FULL_AFTER,
                      at::autocast::get_autocast_dispatch_key_from_device_type(device_type)),
      dtype_argument_(dtype_argument(op)),
      overload_with_dtype_(overload_with_dtype(op)) {
  const auto& arguments = op.schema().arguments();
  for (const auto& argument : arguments) castable_.push_back(is_castable(argument));
  castable_to_low_ = castable_;
  if (std::all_of(castable_.begin(), castable_.end(), [](bool all) { return all; })) return;
  // Weight and bias must have the dtype of the running statistics.
  for (size_t i = 0; i < arguments.size(); ++i)
    castable_to_low_[i] = castable_[i] && arguments[i].name() == "input";
}

/// Calls `change` with each tensor argument of `which`, also those in lists; where it returns a
/// defined one, that takes its place. Lists of optional tensors hold indices.
template <class Change>
void RuledCall::change_tensors(torch::jit::Stack* stack, const std::vector<bool>& which,
                               const Change& change) {
  auto* values = stack->data() + (stack->size() - which.size());
  for (size_t i = 0; i < which.size(); ++i) {
    auto& value = values[i];
    if (!which[i]) continue;
    if (value.isTensor()) {
      if (auto changed = change(value.toTensor()); changed.defined()) value = std::move(changed);
    } else if (value.isTensorList()) {
      auto tensors = value.toTensorVector();
      bool any = false;
      for (auto& tensor : tensors) {
        if (auto changed = change(tensor); changed.defined()) {
          tensor = std::move(changed);
          any = true;
        }
      }
      if (any) value = std::move(tensors);
    }
  }
}

void RuledCall::cast_all(c10::ScalarType dtype, RegionCastCache* cache, StandIn stand_in,
                         torch::jit::Stack* stack) const {
  const bool low = dtype != c10::kFloat;
  const auto& which = low ? castable_to_low_ : castable_;
  change_tensors(stack, which, [&](const at::Tensor& argument) -> at::Tensor {
    if (!at::autocast::is_eligible(argument, device_type_) || argument.scalar_type() == dtype)
      return {};
    if (!low || argument.scalar_type() != c10::kFloat) return argument.to(dtype);
    if (stand_in != nullptr) {
      if (auto copy = stand_in(argument, device_type_); copy.defined()) return copy;
    }
    return cache != nullptr ? cache->cast(argument, dtype)
                            : at::autocast::cached_cast(dtype, argument, device_type_);
  });
}

c10::ScalarType RuledCall::widest(torch::jit::Stack* stack) const {
  auto dtype = at::autocast::get_autocast_dtype(device_type_);
  change_tensors(stack, castable_, [&](const at::Tensor& argument) -> at::Tensor {
    dtype = at::autocast::prioritize(dtype, argument, device_type_);
    return {};
  });
  return dtype;
}

bool RuledCall::all_float32(torch::jit::Stack* stack) const {
  bool all = true;
  change_tensors(stack, castable_, [&](const at::Tensor& argument) -> at::Tensor {
    if (at::autocast::is_eligible(argument, device_type_))
      all = all && argument.scalar_type() == c10::kFloat;
    return {};
  });
  return all;
}

bool RuledCall::first_is_eligible(torch::jit::Stack* stack) const {
  const auto& first = (*stack)[stack->size() - castable_.size()];
  return first.isTensor() && at::autocast::is_eligible(first.toTensor(), device_type_);
}

void RuledCall::run(CastRule rule, RegionCastCache* cache, StandIn stand_in,
                    torch::jit::Stack* stack) const {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(autocast_key_);
  const auto low = at::autocast::get_autocast_dtype(device_type_);
  switch (rule) {
    case CastRule::lower_precision:
      cast_all(low, cache, stand_in, stack);
      break;
    case CastRule::float32:
      cast_all(c10::kFloat, cache, stand_in, stack);
      break;
    case CastRule::float32_set_dtype: {
      HALFSTEP_CHECK_USAGE(dtype_argument_, "OpPolicy",
                           "float32_set_dtype needs a dtype argument, but got a call of ",
                           op_name(op_.operator_name()), "; use float32");
      auto& dtype = (*stack)[stack->size() - castable_.size() + *dtype_argument_];
      if (dtype.isNone() && first_is_eligible(stack)) dtype = c10::kFloat;
      break;
    }
    case CastRule::float32_append_dtype: {
      HALFSTEP_CHECK_USAGE(overload_with_dtype_, "OpPolicy",
                           "float32_append_dtype needs an overload with dtype, but got a call of ",
                           op_name(op_.operator_name()), "; use float32");
      const auto& first = (*stack)[stack->size() - castable_.size()].toTensor();
      stack->emplace_back(first_is_eligible(stack) ? c10::kFloat : first.scalar_type());
      overload_with_dtype_->callBoxed(stack);
      return;
    }
    case CastRule::promote:
      cast_all(widest(stack), cache, stand_in, stack);
      break;
    case CastRule::promote_or_lower:
      cast_all(all_float32(stack) ? low : widest(stack), cache, stand_in, stack);
      break;
    case CastRule::banned:
      raise<UsageError>("OpPolicy", "the region's policy bans ", op_name(op_.operator_name()),
                        ", but got a call of it; use another op (for binary_cross_entropy "
                        "binary_cross_entropy_with_logits), or call it in a disabled region");
    case CastRule::keep:
      break;
  }
  op_.callBoxed(stack);
}

void RuledCall::fall_through(c10::DispatchKeySet keys, torch::jit::Stack* stack) const {
  op_.redispatchBoxed(keys & below_autocast_, stack);
}

void RuledCall::use_stand_ins(StandIn stand_in, torch::jit::Stack* stack) const {
  change_tensors(stack, castable_, [&](const at::Tensor& argument) -> at::Tensor {
    if (!argument.defined() || argument.scalar_type() != c10::kFloat) return {};
    return stand_in(argument, device_type_);
  });
}

}  // namespace halfstep::detail
