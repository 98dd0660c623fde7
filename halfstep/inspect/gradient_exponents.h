#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include <ATen/core/Tensor.h>
#include <c10/core/ScalarType.h>

namespace halfstep::inspect {

/// How large gradients are, counted by their binary exponent: how many of them float16 would lose
/// at a loss scale, and which scale would keep them.
///
///   halfstep::inspect::GradientExponents exponents;
///   for (const auto& weight : net->parameters()) exponents.add(weight.grad(), scaler.get_scale());
///   std::cout << exponents.text(scaler.get_scale());
///
/// A value; not safe to change from two threads.
class GradientExponents {
 public:
  /// Counts the elements of a floating-point gradient that is `scale` times what it stands for (a
  /// power of two: its exponent is taken off). An undefined one has none; of a sparse one those
  /// that are there count. Syncs with its device.
  void add(const at::Tensor& gradient, double scale = 1);

  int64_t elements() const;
  int64_t zeros() const { return zeros_; }
  int64_t non_finite() const { return non_finite_; }
  /// Elements with 2^exponent <= |g| < 2^(exponent + 1). What float32 holds as a subnormal counts
  /// as 2^-127.
  int64_t count(int exponent) const;
  /// The exponent of the largest element that is finite and not 0; none where there is none.
  std::optional<int> largest() const;

  /// The share of elements that are finite and not 0 which become 0 in `dtype` (float16 or
  /// bfloat16) when multiplied by `scale`: those below half its smallest number. 0 where there are
  /// no such elements.
  double share_lost(c10::ScalarType dtype, double scale) const;
  /// Of the same the share that keeps fewer bits than the dtype has, as subnormal numbers.
  double share_weakened(c10::ScalarType dtype, double scale) const;
  /// The largest power of two with which the largest element stays `headroom` binary orders below
  /// the largest power of two in float16, 2^15; none where there are no elements to scale.
  std::optional<double> recommended_scale(int headroom = 2) const;

  /// A bar for each four exponents, and what float16 makes of them at `scale`, without one, and at
  /// the recommended one.
  std::string text(double scale) const;

 private:
  static constexpr int kLeast = -400, kMost = 400;  // with the scale taken off
  int64_t below(double limit) const;
  int64_t not_zero() const;

  std::array<int64_t, kMost - kLeast + 1> counts_{};
  int64_t zeros_ = 0, non_finite_ = 0;
};

}  // namespace halfstep::inspect
