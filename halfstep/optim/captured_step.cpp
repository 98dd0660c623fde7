// A step that a CUDA graph holds: what must hold for it, and what the host does beside a launch.
#include "halfstep/autocast/cast_cache.h"
#include "halfstep/optim/fused_optimizer.h"

#include <algorithm>
#include <optional>

#include <ATen/ops/full.h>
#include <c10/core/GradMode.h>
#include <c10/core/InferenceMode.h>

namespace halfstep::optim {

const at::Tensor& FusedOptimizer::rate_on(c10::Device device, std::size_t group) {
  const double lr = options_of(group).get_lr();
  const auto found = rates_.find({group, device.index()});
  if (found == rates_.end()) {
    // Written in place later, which inference tensors don't allow.
    const c10::InferenceMode normal_mode(false);
    const auto options = at::TensorOptions(device).dtype(c10::kFloat);
    return rates_.emplace(std::pair(group, device.index()), Rate{at::full({}, lr, options), lr})
        .first->second.tensor;
  }
  auto& [tensor, written] = found->second;
  if (lr != written) {
    tensor.fill_(lr);
    written = lr;
  }
  return tensor;
}

void FusedOptimizer::write_rates() {
  const c10::NoGradGuard no_grad;
  for (auto& [key, rate] : rates_) rate_on(rate.tensor.device(), key.first);
}

std::string FusedOptimizer::why_not_captured(c10::Device device) const {
  if (!settings_.capturable)
    return std::string(where_) + " has its learning rate on the host: set capturable(true)";
  if (grad_scale || found_inf)
    return std::string("the grad_scale or found_inf of ") + where_ + " holds for one step";
  for (const auto& item : detail::collect_items(*this, where_)) {
    if (item.parameter.device() != device)
      return c10::str("a parameter of ", where_, " lies on ", item.parameter.device());
    if (rates_.count({item.group, device.index()}) == 0 || !has_state(item))
      return std::string(where_) + " has yet to make its first step with these parameters";
    if (!is_settled(item))
      return std::string("somebody changed a weight under a master of ") + where_;
  }
  return "";
}

const FusedState* FusedOptimizer::state_of(const at::Tensor& parameter) const {
  const auto found = state_.find(parameter.unsafeGetTensorImpl());
  return found == state_.end() ? nullptr : static_cast<const FusedState*>(found->second.get());
}

bool FusedOptimizer::has_state(const detail::StepItem& item) const {
  const auto buffers = uses_buffers(options_of(item.group));
  const bool masters = has_master(item.parameter);
  if (buffers == 0 && !masters) return true;
  const auto* state = state_of(item.parameter);
  if (state == nullptr || (masters && !state->master.defined())) return false;
  return std::all_of(state->buffers.begin(), state->buffers.begin() + std::ptrdiff_t(buffers),
                     [](const at::Tensor& buffer) { return buffer.defined(); });
}

bool FusedOptimizer::is_settled(const detail::StepItem& item) const {
  return !has_master(item.parameter) || state_of(item.parameter)->mark.is_of(item.parameter);
}

FusedOptimizer::CapturedFacts FusedOptimizer::captured_facts() const {
  CapturedFacts facts{{settings_.clip_norm, settings_.clip_value}, {}};
  const auto add = [&](const at::Tensor& tensor) {
    facts.memory.push_back(tensor.defined() ? tensor.const_data_ptr() : nullptr);
  };
  std::optional<std::size_t> group;
  for (const auto& item : detail::collect_items(*this, where_)) {
    if (group != item.group) {
      group = item.group;
      const auto numbers = options_of(item.group).numbers_but_lr();
      facts.numbers.insert(facts.numbers.end(), numbers.begin(), numbers.end());
    }
    add(item.parameter);
    add(shadow_of(item.parameter));
    const auto* state = state_of(item.parameter);
    if (state == nullptr) continue;
    for (const auto* tensor : state->tensors()) add(*tensor);
    // A master that no longer belongs to its parameter is made anew by a step on the host.
    facts.numbers.push_back(state->master.defined() && !state->mark.is_of(item.parameter) ? 1 : 0);
  }
  return facts;
}

void FusedOptimizer::note_step(const at::Tensor& grad_norm) {
  const c10::NoGradGuard no_grad;
  if (grad_norm.defined()) grad_norm_ = grad_norm.clone();
  const auto settled = settled_masters();
  const auto items = detail::collect_items(*this, where_);
  for (const auto& item : items) {
    detail::bump_version(item.parameter);
    const auto* state = state_of(item.parameter);
    if (state == nullptr) continue;
    for (const auto* tensor : state->tensors()) {
      if (tensor->defined()) detail::bump_version(*tensor);
    }
  }
  for (const auto& [state, parameter] : settled)
    state->mark = halfstep::detail::WeightMark(parameter);
  for (const auto& item : items) note_shadow(item.parameter);
  halfstep::detail::clear_cast_cache();
}

}  // namespace halfstep::optim
