#pragma once
#include "halfstep/apex/amp_optimizer.h"

#include <cstdint>
#include <exception>
#include <vector>

#include <ATen/core/Tensor.h>

namespace halfstep::apex {

/// How one loss is scaled.
class ScaleLossOptions {
 public:
  /// Which scale: from 0 to num_losses - 1. Default: 0.
  ScaleLossOptions& loss_id(int64_t value) {
    loss_id_ = value;
    return *this;
  }
  int64_t loss_id() const { return loss_id_; }

  /// True: the gradients stay scaled until a later scope with the same loss_id ends: one unscaling
  /// for several backward passes. Default: false.
  ScaleLossOptions& delay_unscale(bool value) {
    delay_unscale_ = value;
    return *this;
  }
  bool delay_unscale() const { return delay_unscale_; }

 private:
  int64_t loss_id_ = 0;
  bool delay_unscale_ = false;
};

/// The scope of one backward pass, made by Amp::scale_loss: holds the scaled loss, and when it
/// ends, unscales the gradients.
///
///   {
///     auto scaled_loss = amp.scale_loss(loss, optimizer);
///     scaled_loss->backward();
///   }
///
/// One scope at a time, in braces of its own, that ends before the step: none of this is checked.
/// Where an exception passes through it, the gradients are again what they were before, unless
/// delay_unscale had left scaled ones there, to which backward may have added.
class [[nodiscard]] ScaledLoss {
 public:
  /// Throws UsageError where gradients can't be unscaled, as GradScaler::unscale_ does, unless
  /// another exception is under way.
  ~ScaledLoss() noexcept(false);

  ScaledLoss(const ScaledLoss&) = delete;
  ScaledLoss& operator=(const ScaledLoss&) = delete;

  /// The loss in float32, times its scale: call backward() on it.
  const at::Tensor& operator*() const { return scaled_; }
  const at::Tensor* operator->() const { return &scaled_; }

 private:
  friend class Amp;
  ScaledLoss(at::Tensor scaled, GradScaler* scaler, std::vector<detail::AmpOptimizer*> optimizers,
             const ScaleLossOptions& options);
  void unscale();

  at::Tensor scaled_;
  GradScaler* scaler_;  // null: nothing to unscale
  std::vector<detail::AmpOptimizer*> optimizers_;
  ScaleLossOptions options_;
  int exceptions_ = std::uncaught_exceptions();
};

}  // namespace halfstep::apex
