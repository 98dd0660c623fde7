#include "halfstep/apex/scaled_loss.h"

#include "halfstep/autocast/cast_cache.h"
#include "halfstep/core/error.h"

#include <utility>

namespace halfstep::apex {

ScaledLoss::ScaledLoss(at::Tensor scaled, GradScaler* scaler,
                       std::vector<detail::AmpOptimizer*> optimizers,
                       const ScaleLossOptions& options)
    : scaled_(std::move(scaled)),
      scaler_(scaler),
      optimizers_(std::move(optimizers)),
      options_(options) {
  if (scaler_ == nullptr) return;
  for (const auto* optimizer : optimizers_) {
    const auto& other = optimizer->scaled_by();
    HALFSTEP_CHECK_USAGE(!other || *other == options.loss_id(), "apex::Amp::scale_loss",
                         "gradients left scaled by delay_unscale must be unscaled by the same "
                         "loss_id, but they are of loss ",
                         *other, " and this is loss ", options.loss_id(),
                         "; end the delay of that loss first");
  }
  for (auto* optimizer : optimizers_) optimizer->begin_backward();
}

ScaledLoss::~ScaledLoss() noexcept(false) {
  halfstep::detail::clear_cast_cache();
  if (scaler_ == nullptr) return;
  if (std::uncaught_exceptions() > exceptions_) {
    for (auto* optimizer : optimizers_) optimizer->cancel_backward();
  } else if (options_.delay_unscale()) {
    for (auto* optimizer : optimizers_) optimizer->leave_scaled(options_.loss_id());
  } else {
    unscale();
  }
}

void ScaledLoss::unscale() {
  at::Tensor found_inf;
  for (auto* optimizer : optimizers_) {
    const auto found = optimizer->unscale(*scaler_);
    if (found.defined()) found_inf = found_inf.defined() ? found_inf + found : found;
  }
  HALFSTEP_CHECK_USAGE(found_inf.defined(), "apex::Amp::scale_loss",
                       "the scope must make gradients for its optimizers, but there is none; call "
                       "backward() on the scaled loss inside it");
  // All of them skip, as one loss made all these gradients.
  if (scaler_->options().check_overflow()) {
    for (auto* optimizer : optimizers_) optimizer->skip_if(found_inf);
  }
  scaler_->update();
}

}  // namespace halfstep::apex
