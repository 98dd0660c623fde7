#include "halfstep/autocast/ruled_call.h"

#include "halfstep/autocast/op_names.h"
#include "halfstep/core/error.h"

#include <utility>

#include <ATen/autocast_mode.h>
#include <c10/core/GradMode.h>

namespace halfstep::detail {

/// Copies of running statistics in a call's dtype: what the call wrote into them goes back at the
/// end. (A copy made as other arguments' would take the write.)
class RuledCall::LentStatistics {
 public:
  void lend(c10::IValue& argument, c10::ScalarType dtype, bool written) {
    const auto own = argument.toTensor();
    const auto copy = own.to(dtype);
    argument = copy;
    if (written) lent_.emplace_back(own, copy);
  }
  void give_back() const {
    const c10::NoGradGuard no_grad;
    for (const auto& [own, copy] : lent_) own.copy_(copy);
  }

 private:
  std::vector<std::pair<at::Tensor, at::Tensor>> lent_;
};

RuledCall::RuledCall(const c10::OperatorHandle& op, c10::DeviceType device_type)
    : op_(op),
      device_type_(device_type),
      autocast_key_(at::autocast::get_autocast_dispatch_key_from_device_type(device_type)),
      below_autocast_(c10::DispatchKeySet::FULL_AFTER,
                      at::autocast::get_autocast_dispatch_key_from_device_type(device_type)),
      dtype_argument_(dtype_argument(op)),
      overload_with_dtype_(overload_with_dtype(op)) {
  const auto& arguments = op.schema().arguments();
  for (size_t i = 0; i < arguments.size(); ++i) {
    const auto& name = arguments[i].name();
    const bool is_statistic = name.rfind("running_", 0) == 0;
    castable_.push_back(!is_statistic);
    if (is_statistic) batch_norm_.statistics.push_back(i);
    if (name == "weight" || name == "bias") batch_norm_.affine.push_back(i);
    if (name == "training" || name == "use_input_stats") batch_norm_.training = i;
  }
}

namespace {

/// Calls `change` with each tensor of a list; a new list takes its place once one has changed.
template <class Change>
void change_list(c10::IValue& list, const Change& change) {
  const auto tensors = list.toListRef();
  std::vector<at::Tensor> changed;
  for (size_t i = 0; i < tensors.size(); ++i) {
    auto tensor = change(tensors[i].toTensor());
    if (!tensor.defined()) continue;
    if (changed.empty()) changed = list.toTensorVector();
    changed[i] = std::move(tensor);
  }
  if (!changed.empty()) list = std::move(changed);
}

}  // namespace

/// Calls `change` with each tensor argument and its position, also those in lists; where it returns
/// a defined one, that takes its place. Lists of optional tensors hold indices.
template <class Change>
void RuledCall::change_tensors(torch::jit::Stack* stack, const Change& change) const {
  auto* values = stack->data() + (stack->size() - castable_.size());
  for (size_t i = 0; i < castable_.size(); ++i) {
    auto& value = values[i];
    if (!castable_[i]) continue;
    if (value.isTensor()) {
      if (auto changed = change(value.toTensor(), i); changed.defined()) value = std::move(changed);
    } else if (value.isTensorList()) {
      change_list(value, [&](const at::Tensor& tensor) { return change(tensor, i); });
    }
  }
}

/// The dtype of a batch norm's statistics, weight and bias where its input gets `dtype`: float32
/// statistics stay so beside a 16-bit input.
c10::ScalarType RuledCall::parameter_dtype(c10::ScalarType dtype, torch::jit::Stack* stack) const {
  const auto* values = stack->data() + (stack->size() - castable_.size());
  for (const auto i : batch_norm_.statistics) {
    if (values[i].isTensor() && values[i].toTensor().scalar_type() == c10::kFloat)
      return c10::kFloat;
  }
  return dtype;
}

RuledCall::LentStatistics RuledCall::lend_statistics(c10::ScalarType dtype,
                                                     torch::jit::Stack* stack) const {
  LentStatistics lent;
  auto* values = stack->data() + (stack->size() - castable_.size());
  const auto& training = batch_norm_.training;
  for (const auto i : batch_norm_.statistics) {
    if (!values[i].isTensor()) continue;
    const auto& statistics = values[i].toTensor();
    if (at::autocast::is_eligible(statistics, device_type_) && statistics.scalar_type() != dtype)
      lent.lend(values[i], dtype, !training || values[*training].toBool());
  }
  return lent;
}

RuledCall::LentStatistics RuledCall::cast_all(c10::ScalarType dtype, RegionCastCache* cache,
                                              StandIn stand_in, torch::jit::Stack* stack) const {
  const auto of_parameters = parameter_dtype(dtype, stack);
  change_tensors(stack, [&](const at::Tensor& argument, size_t index) -> at::Tensor {
    const auto to = batch_norm_.has_parameter(index) ? of_parameters : dtype;
    if (!at::autocast::is_eligible(argument, device_type_) || argument.scalar_type() == to)
      return {};
    if (to == c10::kFloat || argument.scalar_type() != c10::kFloat) return argument.to(to);
    if (stand_in != nullptr) {
      if (auto copy = stand_in(argument, device_type_); copy.defined()) return copy;
    }
    return cache != nullptr ? cache->cast(argument, to)
                            : at::autocast::cached_cast(to, argument, device_type_);
  });
  return lend_statistics(of_parameters, stack);
}

c10::ScalarType RuledCall::widest(torch::jit::Stack* stack) const {
  auto dtype = at::autocast::get_autocast_dtype(device_type_);
  change_tensors(stack, [&](const at::Tensor& argument, size_t) -> at::Tensor {
    dtype = at::autocast::prioritize(dtype, argument, device_type_);
    return {};
  });
  return dtype;
}

bool RuledCall::all_float32(torch::jit::Stack* stack) const {
  bool all = true;
  change_tensors(stack, [&](const at::Tensor& argument, size_t) -> at::Tensor {
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
  LentStatistics lent;
  switch (rule) {
    case CastRule::lower_precision:
      lent = cast_all(low, cache, stand_in, stack);
      break;
    case CastRule::float32:
      lent = cast_all(c10::kFloat, cache, stand_in, stack);
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
      lent = cast_all(widest(stack), cache, stand_in, stack);
      break;
    case CastRule::promote_or_lower:
      lent = cast_all(all_float32(stack) ? low : widest(stack), cache, stand_in, stack);
      break;
    case CastRule::banned:
      raise<UsageError>("OpPolicy", "the region's policy bans ", op_name(op_.operator_name()),
                        ", but got a call of it; use another op (for binary_cross_entropy "
                        "binary_cross_entropy_with_logits), or call it in a disabled region");
    case CastRule::keep:
      break;
  }
  op_.callBoxed(stack);
  lent.give_back();
}

void RuledCall::fall_through(c10::DispatchKeySet keys, torch::jit::Stack* stack) const {
  op_.redispatchBoxed(keys & below_autocast_, stack);
}

void RuledCall::use_stand_ins(StandIn stand_in, torch::jit::Stack* stack) const {
  change_tensors(stack, [&](const at::Tensor& argument, size_t) -> at::Tensor {
    if (!argument.defined() || argument.scalar_type() != c10::kFloat) return {};
    return stand_in(argument, device_type_);
  });
}

}  // namespace halfstep::detail
