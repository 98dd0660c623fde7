#include "halfstep/apex/amp_optimizer.h"

#include "halfstep/autocast/cast_cache.h"
#include "halfstep/core/dtype.h"
#include "halfstep/core/error.h"
#include "halfstep/optim/gradient_dtype.h"
#include "halfstep/scaling/device_copies.h"
#include "halfstep/scaling/guarded_step.h"

#include <algorithm>
#include <utility>

#include <c10/core/GradMode.h>
#include <torch/optim/lbfgs.h>

namespace halfstep::apex::detail {

namespace {

constexpr const char* kAmpOptimizerWhere = "apex::initialize";

bool keeps_own_masters(torch::optim::Optimizer& optimizer) {
  auto* options = dynamic_cast<optim::FusedOptions*>(&optimizer.defaults());
  return options != nullptr && options->settings().master_weights != optim::MasterWeights::none;
}

}  // namespace

void check_optimizer(torch::optim::Optimizer& optimizer) {
  HALFSTEP_CHECK_USAGE(dynamic_cast<torch::optim::LBFGS*>(&optimizer) == nullptr,
                       kAmpOptimizerWhere,
                       "an optimizer must step without a closure, but got LBFGS; use "
                       "GradScaler::step, which takes its closure");
  const auto* fused = dynamic_cast<optim::FusedOptimizer*>(&optimizer);
  HALFSTEP_CHECK_USAGE(fused == nullptr || !fused->keeps_shadow_weights(), kAmpOptimizerWhere,
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
  if (!master_weights_ || !is_low_precision(model.scalar_type())) return {model, model};
  optim::set_gradient_dtype({model}, c10::kFloat);
  if (keeps_own_masters_) return {model, model};
  auto master = model.detach().to(c10::kFloat).requires_grad_(model.requires_grad());
  auto& states = optimizer_->state();
  if (const auto old = states.find(model.unsafeGetTensorImpl()); old != states.end()) {
    auto state = std::move(old->second);
    states.erase(old);
    states[master.unsafeGetTensorImpl()] = std::move(state);
  }
  listed = master;
  return {
      .model = model, .stepped = std::move(master), .mark = halfstep::detail::WeightMark(model)};
}

void AmpOptimizer::Parameter::set_gradient(const at::Tensor& gradient) const {
  model.mutable_grad() = gradient;
  stepped.mutable_grad() = gradient;
}

void AmpOptimizer::Parameter::take_back(at::Tensor& kept) const {
  const auto made = model.grad();
  set_gradient(made.defined() && kept.defined() ? made.add_(kept) : made.defined() ? made : kept);
  kept.reset();
}

void AmpOptimizer::Parameter::follow_model() {
  if (!has_master() || mark.is_of(model)) return;
  // Somebody wrote the model, as loading weights does.
  stepped.copy_(optim::detail::renewed_master(stepped, model));
  mark = halfstep::detail::WeightMark(model);
}

void AmpOptimizer::drop_zeroed() {
  bool any_scaled = false;
  for (auto& each : parameters_) {
    if (each.model.grad().defined() != each.stepped.grad().defined()) each.set_gradient({});
    if (each.was_left_scaled && !each.model.grad().defined()) {
      each.was_left_scaled = false;
      each.aside.reset();
    }
    any_scaled = any_scaled || each.was_left_scaled;
  }
  if (!scaled_by_ || any_scaled) return;
  scaled_by_.reset();
  for (auto& each : parameters_) each.aside.reset();
}

std::optional<int64_t> AmpOptimizer::scaled_by() {
  if (scaled_by_) drop_zeroed();
  return scaled_by_;
}

void AmpOptimizer::begin_backward() {
  drop_zeroed();
  for (auto& each : parameters_) {
    (scaled_by_ ? each.scaled : each.aside) = each.stepped.grad();
    each.set_gradient({});
  }
}

bool AmpOptimizer::has_scaled_gradients() const {
  return std::any_of(parameters_.begin(), parameters_.end(), [](const Parameter& each) {
    return each.model.grad().defined() || each.scaled.defined();
  });
}

void AmpOptimizer::leave_scaled(int64_t loss_id) {
  if (!has_scaled_gradients()) return cancel_backward();
  const c10::NoGradGuard no_grad;
  for (auto& each : parameters_) {
    each.take_back(each.scaled);
    each.was_left_scaled = each.model.grad().defined();
  }
  scaled_by_ = loss_id;
}

at::Tensor AmpOptimizer::unscale(GradScaler& scaler) {
  const c10::NoGradGuard no_grad;
  for (auto& each : parameters_) each.take_back(each.scaled);
  scaler.unscale_(*optimizer_);
  at::Tensor found;
  for (const auto& [device, flag] : scaler.found_inf_per_device(*optimizer_)) {
    const auto here = halfstep::detail::to_device(flag, scaler.get_scale_async().device());
    found = found.defined() ? found + here : here;
  }
  for (auto& each : parameters_) {
    each.take_back(each.aside);
    each.was_left_scaled = false;
  }
  scaled_by_.reset();
  return found;
}

void AmpOptimizer::cancel_backward() noexcept {
  for (auto& each : parameters_) {
    auto& kept = scaled_by_ ? each.scaled : each.aside;
    each.set_gradient(kept);
    kept.reset();
  }
}

void AmpOptimizer::skip_if(const at::Tensor& found_inf) {
  const c10::NoGradGuard no_grad;
  found_inf_ = found_inf_.defined()
                   ? found_inf_ + halfstep::detail::to_device(found_inf, found_inf_.device())
                   : found_inf;
}

StepResult AmpOptimizer::step() {
  constexpr const char* where = "apex::Amp::step";
  HALFSTEP_CHECK_USAGE(!is_open_, where,
                       "a step must come after the scope of scale_loss has ended, which unscales "
                       "the gradients, but one with this optimizer is still open; put braces "
                       "around the scaled loss and its backward()");
  const auto left_by = scaled_by();
  HALFSTEP_CHECK_USAGE(!left_by, where,
                       "gradients must be unscaled before the step, but those of loss ",
                       left_by.value_or(0),
                       " were left scaled by delay_unscale; leave the last scale_loss before a "
                       "step without it");
  const c10::NoGradGuard no_grad;
  for (auto& each : parameters_) each.follow_model();
  auto result = halfstep::detail::step_unless(*optimizer_, found_inf_);
  found_inf_.reset();
  const bool skipped = result.is_known() && !result.stepped();
  for (auto& each : parameters_) {
    if (!each.has_master()) continue;
    if (!skipped) each.model.copy_(each.stepped);
    // A model's zero_grad() does not know of them.
    each.stepped.mutable_grad().reset();
  }
  // Not before: parameters that are parts of one tensor share its version.
  for (auto& each : parameters_)
    if (each.has_master()) each.mark = halfstep::detail::WeightMark(each.model);
  halfstep::detail::clear_cast_cache();
  return result;
}

void AmpOptimizer::zero_grad() {
  for (auto& each : parameters_) {
    each.set_gradient({});
    each.aside.reset();
    each.scaled.reset();
    each.was_left_scaled = false;
  }
  scaled_by_.reset();
}

optim::FusedOptimizer* AmpOptimizer::keeper_of(const Parameter& parameter) const {
  const bool keeps = keeps_own_masters_ && is_low_precision(parameter.model.scalar_type());
  return keeps ? dynamic_cast<optim::FusedOptimizer*>(optimizer_) : nullptr;
}

at::Tensor AmpOptimizer::master_of(const at::Tensor& model) const {
  for (const auto& each : parameters_) {
    if (!each.model.is_same(model)) continue;
    if (each.has_master())
      return each.mark.is_of(model) ? each.stepped
                                    : optim::detail::renewed_master(each.stepped, model);
    const auto* keeper = keeper_of(each);
    return keeper != nullptr ? keeper->master_of(model) : at::Tensor();
  }
  return {};
}

void AmpOptimizer::set_master(const at::Tensor& model, const at::Tensor& master) {
  const c10::NoGradGuard no_grad;
  for (auto& each : parameters_) {
    if (!each.model.is_same(model)) continue;
    if (each.has_master()) {
      each.stepped.copy_(master);
      each.model.copy_(master);
      each.mark = halfstep::detail::WeightMark(model);
    } else if (auto* keeper = keeper_of(each)) {
      keeper->set_master(model, master);
    }
  }
}

std::vector<at::Tensor> AmpOptimizer::master_params() const {
  std::vector<at::Tensor> stepped;
  for (const auto& each : parameters_) stepped.push_back(each.stepped);
  return stepped;
}

}  // namespace halfstep::apex::detail
