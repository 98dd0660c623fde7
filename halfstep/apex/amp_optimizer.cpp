#include "halfstep/apex/amp_optimizer.h"

#include "halfstep/autocast/cast_cache.h"
#include "halfstep/core/dtype.h"
#include "halfstep/core/error.h"
#include "halfstep/optim/fused_optimizer.h"
#include "halfstep/optim/gradient_dtype.h"
#include "halfstep/scaling/device_copies.h"
#include "halfstep/scaling/guarded_step.h"

#include <algorithm>
#include <utility>

#include <ATen/ops/where.h>
#include <c10/core/GradMode.h>
#include <torch/optim/lbfgs.h>

namespace halfstep::apex::detail {

namespace {

constexpr const char* kWhere = "apex::initialize";

bool keeps_own_masters(torch::optim::Optimizer& optimizer) {
  auto* options = dynamic_cast<optim::FusedOptions*>(&optimizer.defaults());
  return options != nullptr && options->settings().master_weights != optim::MasterWeights::none;
}

}  // namespace

void check_optimizer(torch::optim::Optimizer& optimizer) {
  HALFSTEP_CHECK_USAGE(dynamic_cast<torch::optim::LBFGS*>(&optimizer) == nullptr, kWhere,
                       "an optimizer must step without a closure, but got LBFGS; use "
                       "GradScaler::step, which takes its closure");
  const auto* fused = dynamic_cast<optim::FusedOptimizer*>(&optimizer);
  HALFSTEP_CHECK_USAGE(fused == nullptr || !fused->keeps_shadow_weights(), kWhere,
                       "an optimizer must keep no shadow weights, which are copies of float32 "
                       "weights, but got one that does; leave shadow_weights out");
}

AmpOptimizer::AmpOptimizer(torch::optim::Optimizer& optimizer, bool master_weights)
    : optimizer_(&optimizer),
      master_weights_(master_weights),
      keeps_own_masters_(keeps_own_masters(optimizer)) {
  take_new_groups();
}

void AmpOptimizer::take_new_groups() {
  auto& groups = optimizer_->param_groups();
  for (; groups_taken_ < groups.size(); ++groups_taken_) {
    for (auto& listed : groups[groups_taken_].params()) parameters_.push_back(take(listed));
  }
}

AmpOptimizer::Parameter AmpOptimizer::take(at::Tensor& listed) {
  const auto model = listed;
  if (!master_weights_ || !is_low_precision(model.scalar_type())) return {model, model, {}};
  optim::set_gradient_dtype({model}, c10::kFloat);
  if (keeps_own_masters_) return {model, model, {}};
  auto master = model.detach().to(c10::kFloat).requires_grad_(model.requires_grad());
  auto& states = optimizer_->state();
  if (const auto old = states.find(model.unsafeGetTensorImpl()); old != states.end()) {
    auto state = std::move(old->second);
    states.erase(old);
    states[master.unsafeGetTensorImpl()] = std::move(state);
  }
  listed = master;
  Parameter taken{model, std::move(master), {}};
  taken.note_written();
  return taken;
}

void AmpOptimizer::Parameter::note_written() {
  version = model._version();
  address = model.const_data_ptr();
}

void AmpOptimizer::Parameter::follow_model() {
  if (!has_master() || (model._version() == version && model.const_data_ptr() == address)) return;
  // Somebody wrote the model, as loading weights does; elements that are their rounded master stay.
  const auto same = stepped.to(model.scalar_type()).eq(model);
  stepped.copy_(at::where(same, stepped, model.to(c10::kFloat)));
  note_written();
}

void AmpOptimizer::begin_backward() {
  if (scaled_by_) {
    const auto has_gradient = [](const Parameter& each) { return each.model.grad().defined(); };
    if (std::any_of(parameters_.begin(), parameters_.end(), has_gradient)) return;
    scaled_by_.reset();  // zeroed by the user
  }
  for (auto& each : parameters_) {
    each.aside = each.stepped.grad();
    each.stepped.mutable_grad().reset();
    each.model.mutable_grad().reset();
  }
}

at::Tensor AmpOptimizer::unscale(GradScaler& scaler) {
  const c10::NoGradGuard no_grad;
  for (auto& each : parameters_) each.stepped.mutable_grad() = each.model.grad();
  scaler.unscale_(*optimizer_);
  at::Tensor found;
  for (const auto& [device, flag] : scaler.found_inf_per_device(*optimizer_)) {
    const auto here = halfstep::detail::to_device(flag, scaler.get_scale_async().device());
    found = found.defined() ? found + here : here;
  }
  for (auto& each : parameters_) {
    auto& gradient = each.stepped.mutable_grad();
    if (each.aside.defined())
      gradient = gradient.defined() ? gradient.add_(each.aside) : each.aside;
    each.model.mutable_grad() = gradient;
    each.aside.reset();
  }
  scaled_by_.reset();
  return found;
}

void AmpOptimizer::cancel_backward() noexcept {
  if (scaled_by_) return;
  for (auto& each : parameters_) {
    each.stepped.mutable_grad() = each.aside;
    each.model.mutable_grad() = each.aside;
    each.aside.reset();
  }
}

void AmpOptimizer::skip_if(const at::Tensor& found_inf) {
  const c10::NoGradGuard no_grad;
  found_inf_ = found_inf_.defined()
                   ? found_inf_ + halfstep::detail::to_device(found_inf, found_inf_.device())
                   : found_inf;
}

StepResult AmpOptimizer::step() {
  HALFSTEP_CHECK_USAGE(
      !scaled_by_, "apex::Amp::step",
      "gradients must be unscaled before the step, but those of loss ", *scaled_by_,
      " were left scaled by delay_unscale; leave the last scale_loss before a step "
      "without it");
  const c10::NoGradGuard no_grad;
  for (auto& each : parameters_) each.follow_model();
  auto result = halfstep::detail::step_unless(*optimizer_, found_inf_);
  found_inf_.reset();
  const bool skipped = result.is_known() && !result.stepped();
  for (auto& each : parameters_) {
    if (!each.has_master()) continue;
    if (!skipped) each.model.copy_(each.stepped);
    each.note_written();
    // A model's zero_grad() does not know of them.
    each.stepped.mutable_grad().reset();
  }
  halfstep::detail::clear_cast_cache();
  return result;
}

void AmpOptimizer::zero_grad() {
  for (auto& each : parameters_) {
    each.stepped.mutable_grad().reset();
    each.model.mutable_grad().reset();
  }
  scaled_by_.reset();
}

at::Tensor AmpOptimizer::master_of(const at::Tensor& model) const {
  for (const auto& each : parameters_) {
    if (!each.model.is_same(model)) continue;
    if (each.has_master()) return each.stepped;
    const auto* fused = dynamic_cast<const optim::FusedOptimizer*>(optimizer_);
    return fused != nullptr ? fused->master_of(model) : at::Tensor();
  }
  return {};
}

std::vector<at::Tensor> AmpOptimizer::master_params() const {
  std::vector<at::Tensor> stepped;
  for (const auto& each : parameters_) stepped.push_back(each.stepped);
  return stepped;
}

}  // namespace halfstep::apex::detail
