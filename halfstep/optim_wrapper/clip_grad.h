#pragma once
#include <string>

namespace halfstep {

/// How a wrapper clips the unscaled gradients before each step: MMEngine's `clip_grad`.
///
///   OptimWrapperOptions().clip_grad(ClipGrad::norm(35))
///   OptimWrapperOptions().clip_grad(ClipGrad::value(0.2))
class ClipGrad {
 public:
  /// All gradients together are scaled so that their norm is at most `max_norm`, which is at least
  /// 0. `norm_type` is p of the p-norm, above 0; infinity takes the largest element.
  static ClipGrad norm(double max_norm, double norm_type = 2.0);

  /// Each element is limited to [-clip_value, clip_value]; at least 0.
  static ClipGrad value(double clip_value);

  bool is_norm() const { return is_norm_; }
  /// `max_norm` or `clip_value`.
  double limit() const { return limit_; }
  /// p of the p-norm; of no meaning for `value`.
  double norm_type() const { return norm_type_; }

  /// Whether the fused optimizers (halfstep::optim) do this in their kernel.
  bool fits_fused_optimizers() const { return !is_norm_ || norm_type_ == 2; }

  /// Throws UsageError for a value out of range; `where` opens the message.
  void validate(const char* where) const;

  /// "norm 35", "norm 1 (1-norm)", "value 0.2".
  std::string describe() const;

  bool operator==(const ClipGrad&) const = default;

 private:
  ClipGrad(bool is_norm, double limit, double norm_type)
      : is_norm_(is_norm), limit_(limit), norm_type_(norm_type) {}

  bool is_norm_;
  double limit_;
  double norm_type_;
};

}  // namespace halfstep
