#pragma once
#include "halfstep/apex/amp_optimizer.h"

#include <cstdint>
#include <exception>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

namespace halfstep::apex {

namespace detail {

/// The scale of one loss_id.
struct LossScale {
  GradScaler scaler;
  bool is_open = false;  // in a scope
};

}  // namespace detail

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
/// It ends before the next scope with its loss_id or one of its optimizers begins, and before these
/// step: braces of its own see to it. Gradients that are there when it begins are added when it
/// ends; inside it Amp::zero_grad alone can drop them. Where an exception passes through it, the
/// gradients are again what they were before.
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
  /// Nothing is scaled or checked.
  explicit ScaledLoss(at::Tensor loss) : scaled_(std::move(loss)) {}
  /// `unscales`: false where the scale is 1 for good and there are no masters.
  ScaledLoss(at::Tensor scaled, detail::LossScale& scale, bool unscales,
             std::vector<detail::AmpOptimizer*> optimizers, const ScaleLossOptions& options);
  void end();
  void unscale();

  at::Tensor scaled_;
  detail::LossScale* scale_ = nullptr;
  bool unscales_ = false;
  std::vector<detail::AmpOptimizer*> optimizers_;
  ScaleLossOptions options_;
  int exceptions_ = std::uncaught_exceptions();
};

}  // namespace halfstep::apex
