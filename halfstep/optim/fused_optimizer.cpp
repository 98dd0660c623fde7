#include "halfstep/optim/fused_optimizer.h"

#include "halfstep/autocast/cast_cache.h"
#include "halfstep/optim/layout.h"
#include "halfstep/scaling/device_copies.h"

#include <typeinfo>
#include <unordered_set>

#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/_foreach_sub.h>
#include <c10/core/GradMode.h>
#include <c10/util/Type.h>

namespace halfstep::optim {

using torch::optim::OptimizerParamGroup;

FusedOptimizer::FusedOptimizer(const char* where, const std::vector<OptimizerParamGroup>& groups,
                               std::unique_ptr<FusedOptions> defaults)
    : Optimizer(std::vector<OptimizerParamGroup>(), std::move(defaults)), where_(where) {
  static_cast<const FusedOptions&>(*defaults_).validate(where_);
  for (const auto& group : groups) add_param_group(group);
}

void FusedOptimizer::add_param_group(const OptimizerParamGroup& group) {
  const auto index = param_groups_.size();
  std::unordered_set<const c10::TensorImpl*> known;
  for (const auto& other : param_groups_) {
    for (const auto& parameter : other.params()) known.insert(parameter.unsafeGetTensorImpl());
  }
  for (const auto& parameter : group.params()) {
    HALFSTEP_CHECK_USAGE(parameter.defined(), where_, "parameters must be tensors, but group ",
                         index, " has an undefined one; leave it out");
    HALFSTEP_CHECK_USAGE(known.insert(parameter.unsafeGetTensorImpl()).second, where_,
                         "each parameter must be listed once, but one of shape ", parameter.sizes(),
                         " in group ", index, " is listed again; leave the second one out");
  }
  auto options = defaults_->clone();
  if (group.has_options()) {
    const auto& given = group.options();
    HALFSTEP_CHECK_USAGE(typeid(given) == typeid(*options), where_,
                         "the options of a group must be ", c10::demangle(typeid(*options).name()),
                         ", but group ", index, " has ", c10::demangle(typeid(given).name()),
                         "; make them with that class");
    options = given.clone();
    auto& merged = static_cast<FusedOptions&>(*options);
    merged.inherit(static_cast<const FusedOptions&>(*defaults_));
    merged.validate(where_);
  }
  // Without options: LibTorch 2.15 would replace those of a class it does not know by the defaults.
  Optimizer::add_param_group(OptimizerParamGroup(group.params()));
  param_groups_.back().set_options(std::move(options));
}

namespace {

void check_factor(const std::optional<at::Tensor>& tensor, const char* name, const char* where) {
  if (!tensor) return;
  HALFSTEP_CHECK_USAGE(
      tensor->defined() && tensor->numel() == 1 && tensor->scalar_type() == c10::kFloat, where,
      name, " must be a float32 tensor of one element, but is not; let GradScaler::step set it");
}

/// Parameters one kernel call can take, and what comes after it.
struct Call {
  std::size_t group = 0;
  detail::FusedBatch batch;
  std::vector<FusedState*> states;
  std::vector<std::pair<at::Tensor, at::Tensor>> copies_back;  // to, from
};

/// The call of these that can take a parameter, or a new one.
Call& find_call(std::vector<Call>& calls, std::size_t group, const at::Tensor& parameter,
                bool is_first_step) {
  for (auto& call : calls) {
    const auto& first = call.batch.parameters.front();
    if (call.group == group && first.device() == parameter.device() &&
        first.scalar_type() == parameter.scalar_type() && call.batch.is_first_step == is_first_step)
      return call;
  }
  auto& call = calls.emplace_back();
  call.group = group;
  call.batch.is_first_step = is_first_step;
  return call;
}

void add_to_steps(const std::vector<at::Tensor>& steps) {
  if (steps.empty()) return;
  if (!steps.front().device().is_cpu()) return at::_foreach_add_(steps, 1);
  for (const auto& step : steps) {  // a foreach op on the CPU takes longer than a small update
    step.mutable_data_ptr<float>()[0] += 1;
    detail::bump_version(step);
  }
}

void bump_versions(const detail::FusedBatch& batch) {
  for (const auto& tensor : batch.parameters) detail::bump_version(tensor);
  for (const auto& buffer : batch.buffers) {
    for (const auto& tensor : buffer) detail::bump_version(tensor);
  }
  if (!batch.grad_scale) return;
  for (const auto& tensor : batch.gradients) detail::bump_version(tensor);
}

}  // namespace

at::Tensor FusedOptimizer::step(LossClosure closure) {
  at::Tensor loss;
  if (closure) {
    const at::AutoGradMode with_gradients(true);
    loss = closure();
  }
  const c10::NoGradGuard no_grad;
  check_factor(grad_scale, "grad_scale", where_);
  check_factor(found_inf, "found_inf", where_);
  step_with_aten(detail::collect_items(*this, where_));
  halfstep::detail::clear_cast_cache();
  return loss;
}

void FusedOptimizer::step_with_aten(const std::vector<detail::StepItem>& items) {
  std::optional<halfstep::detail::DeviceCopies> scales, flags;
  if (grad_scale) scales.emplace(*grad_scale);
  // Flags of several devices may have been added up, but the kernels skip at exactly 1.
  if (found_inf) flags.emplace(found_inf->clamp_max(1));
  // On the CPU the flag is read here, so a skipped step touches nothing at all.
  std::optional<bool> cpu_skips;
  const auto skips = [&](c10::Device device) {
    if (!flags || !device.is_cpu()) return false;
    if (!cpu_skips) cpu_skips = flags->get(device).const_data_ptr<float>()[0] != 0;
    return *cpu_skips;
  };
  const auto options_of = [&](std::size_t group) -> const FusedOptions& {
    return static_cast<const FusedOptions&>(param_groups_[group].options());
  };

  std::vector<Call> calls;
  for (const auto& item : items) {
    const auto device = item.parameter.device();
    if (skips(device)) continue;
    const auto& options = options_of(item.group);
    auto& state_slot = state_[item.parameter.unsafeGetTensorImpl()];
    if (!state_slot) state_slot = make_state();
    auto& state = static_cast<FusedState&>(*state_slot);
    const bool is_first_step = first_step_differs(options) && !state.buffers[0].defined();
    const auto parameter = detail::work_parameter(item.parameter);
    const auto gradient = detail::work_gradient(item.gradient, parameter.tensor, true);
    detail::adopt(state, item.parameter, where_);
    fill_state(state, parameter.tensor, options);

    auto& call = find_call(calls, item.group, parameter.tensor, is_first_step);
    call.states.push_back(&state);
    call.batch.parameters.push_back(parameter.tensor);
    call.batch.gradients.push_back(gradient.tensor);
    if (state.step.defined()) call.batch.steps.push_back(state.step);
    for (std::size_t i = 0; i < FusedState::kBuffers; ++i) {
      if (state.buffers[i].defined()) call.batch.buffers[i].push_back(state.buffers[i]);
    }
    if (parameter.is_copy) call.copies_back.emplace_back(item.parameter, parameter.tensor);
    if (gradient.is_copy && grad_scale)
      call.copies_back.emplace_back(item.gradient, gradient.tensor);
  }

  for (auto& call : calls) {
    const auto& options = options_of(call.group);
    auto& batch = call.batch;
    const auto device = batch.parameters.front().device();
    if (scales) batch.grad_scale = scales->get(device);
    if (flags && !device.is_cpu()) batch.found_inf = flags->get(device);
    add_to_steps(batch.steps);
    call_aten(batch, options);
    if (batch.found_inf && !batch.steps.empty())
      at::_foreach_sub_(batch.steps, std::vector<at::Tensor>(batch.steps.size(), *batch.found_inf));
    bump_versions(batch);
    for (const auto& [to, from] : call.copies_back) to.copy_(from);
    if (batch.is_first_step && batch.found_inf && drops_skipped_first_step(options) &&
        batch.found_inf->item<float>() != 0) {
      for (auto* state : call.states) state->buffers.fill({});
    }
  }
}

void FusedOptimizer::load_with(const std::function<void()>& read) {
  auto old_state = std::move(state_);
  std::vector<std::unique_ptr<torch::optim::OptimizerOptions>> old_options;
  for (const auto& group : param_groups_) old_options.push_back(group.options().clone());
  state_ = {};
  try {
    read();
    for (const auto& group : param_groups_) {
      static_cast<const FusedOptions&>(group.options()).validate(where_);
      for (const auto& parameter : group.params()) {
        const auto found = state_.find(parameter.unsafeGetTensorImpl());
        if (found != state_.end())
          detail::adopt(static_cast<FusedState&>(*found->second), parameter, where_);
      }
    }
  } catch (...) {
    state_ = std::move(old_state);
    for (std::size_t i = 0; i < param_groups_.size(); ++i)
      param_groups_[i].set_options(std::move(old_options[i]));
    throw;
  }
}

}  // namespace halfstep::optim
