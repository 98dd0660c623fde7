#include "halfstep/apex/scaled_loss.h"

#include "halfstep/autocast/cast_cache.h"
#include "halfstep/core/error.h"

#include <algorithm>

#include <c10/util/ScopeExit.h>

namespace halfstep::apex {

namespace {
constexpr const char* kScaledLossWhere = "apex::Amp::scale_loss";
}

ScaledLoss::ScaledLoss(at::Tensor scaled, detail::LossScale& scale, bool unscales,
                       std::vector<detail::AmpOptimizer*> optimizers,
                       const ScaleLossOptions& options)
    : scaled_(std::move(scaled)),
      scale_(&scale),
      unscales_(unscales),
      optimizers_(std::move(optimizers)),
      options_(options) {
  const auto is_open = [](const auto* optimizer) { return optimizer->is_open(); };
  HALFSTEP_CHECK_USAGE(
      !scale_->is_open && std::none_of(optimizers_.begin(), optimizers_.end(), is_open),
      kScaledLossWhere,
      "a scope must end before the next with its loss_id or one of its optimizers begins, but "
      "one of ",
      scale_->is_open ? c10::str("loss ", options.loss_id()) : std::string("the same optimizer"),
      " is still open; put each scaled loss and its backward() in braces of its own");
  for (auto* optimizer : optimizers_) {
    const auto other = unscales_ ? optimizer->scaled_by() : std::nullopt;
    HALFSTEP_CHECK_USAGE(other.value_or(options.loss_id()) == options.loss_id(), kScaledLossWhere,
                         "gradients left scaled by delay_unscale must be unscaled by the same "
                         "loss_id, but they are of loss ",
                         other.value_or(0), " and this is loss ", options.loss_id(),
                         "; end the delay of that loss first");
  }
  scale_->is_open = true;
  for (auto* optimizer : optimizers_) {
    optimizer->open();
    if (unscales_) optimizer->begin_backward();
  }
}

ScaledLoss::~ScaledLoss() noexcept(false) {
  halfstep::detail::clear_cast_cache();
  if (scale_ == nullptr) return;
  scale_->is_open = false;
  for (auto* optimizer : optimizers_) optimizer->close();
  if (unscales_) end();
}

void ScaledLoss::end() {
  if (std::uncaught_exceptions() > exceptions_) {
    for (auto* optimizer : optimizers_) optimizer->cancel_backward();
  } else if (options_.delay_unscale()) {
    for (auto* optimizer : optimizers_) optimizer->leave_scaled(options_.loss_id());
  } else {
    unscale();
  }
}

void ScaledLoss::unscale() {
  auto cancel = c10::make_scope_exit([&] {
    for (auto* optimizer : optimizers_) optimizer->cancel_backward();
  });
  const auto has_gradients = [](const auto* each) { return each->has_scaled_gradients(); };
  HALFSTEP_CHECK_USAGE(std::any_of(optimizers_.begin(), optimizers_.end(), has_gradients),
                       kScaledLossWhere,
                       "the scope must make gradients for its optimizers, but there is none; call "
                       "backward() on the scaled loss inside it");
  cancel.release();
  auto& scaler = scale_->scaler;
  at::Tensor found_inf;
  for (auto* optimizer : optimizers_) {
    const auto found = optimizer->unscale(scaler);
    if (found.defined()) found_inf = found_inf.defined() ? found_inf + found : found;
  }
  // All of them skip, as one loss made all these gradients.
  if (scaler.options().check_overflow()) {
    for (auto* optimizer : optimizers_) optimizer->skip_if(found_inf);
  }
  scaler.update();
}

}  // namespace halfstep::apex
