#pragma once
#include "halfstep/autocast/op_policy.h"
#include "halfstep/optim_wrapper/optim_wrapper_options.h"
#include "halfstep/scaling/grad_scaler_options.h"

#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>

#include <c10/core/ScalarType.h>

namespace halfstep {

/// What an AmpOptimWrapper does around its optimizer.
///
///   AmpOptimWrapperOptions().dtype(torch::kHalf).loss_scale(512).accumulative_counts(8)
class AmpOptimWrapperOptions : public OptimWrapperOptions {
 public:
  /// `"dynamic"` (the default), a fixed scale, or all of a scaler's options:
  ///
  ///   loss_scale("dynamic")   torch's scaler; none for bfloat16, which has float32's range
  ///   loss_scale(512)         stays; a step with an inf or NaN is skipped
  ///   loss_scale(GradScalerOptions().init_scale(1024).growth_interval(100))
  ///
  /// The options' device type is replaced by the wrapper's. Difference from MMEngine: a whole
  /// number works, and "dynamic" does not scale in bfloat16.
  AmpOptimWrapperOptions& loss_scale(std::string value) {
    loss_scale_ = std::move(value);
    return *this;
  }
  AmpOptimWrapperOptions& loss_scale(const char* value) { return loss_scale(std::string(value)); }
  template <class Number>
  requires(std::is_arithmetic_v<Number> &&
           !std::is_same_v<Number, bool>) AmpOptimWrapperOptions& loss_scale(Number value) {
    loss_scale_ = static_cast<double>(value);
    return *this;
  }
  AmpOptimWrapperOptions& loss_scale(GradScalerOptions value) {
    loss_scale_ = std::move(value);
    return *this;
  }
  using LossScale = std::variant<std::string, double, GradScalerOptions>;
  const LossScale& loss_scale() const { return loss_scale_; }

  /// The 16-bit type of the layers: float16 or bfloat16. Default: float16 on CUDA, bfloat16 on the
  /// CPU. float16 on the CPU is rehearsed, see HalfRehearsal.
  AmpOptimWrapperOptions& dtype(std::optional<c10::ScalarType> value) {
    dtype_ = value;
    return *this;
  }
  std::optional<c10::ScalarType> dtype() const { return dtype_; }

  /// Which ops are cast, and how. Default: LibTorch's lists.
  AmpOptimWrapperOptions& policy(std::optional<OpPolicy> value) {
    policy_ = std::move(value);
    return *this;
  }
  const std::optional<OpPolicy>& policy() const { return policy_; }

  /// As OptimWrapperOptions.
  using OptimWrapperOptions::accumulative_counts;
  AmpOptimWrapperOptions& accumulative_counts(int64_t value) {
    OptimWrapperOptions::accumulative_counts(value);
    return *this;
  }
  using OptimWrapperOptions::clip_grad;
  AmpOptimWrapperOptions& clip_grad(std::optional<ClipGrad> value) {
    OptimWrapperOptions::clip_grad(value);
    return *this;
  }

 private:
  LossScale loss_scale_ = std::string("dynamic");
  std::optional<c10::ScalarType> dtype_;
  std::optional<OpPolicy> policy_;
};

}  // namespace halfstep
