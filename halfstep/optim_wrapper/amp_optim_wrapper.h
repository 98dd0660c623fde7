#pragma once
#include "halfstep/optim_wrapper/amp_optim_wrapper_options.h"
#include "halfstep/optim_wrapper/optim_wrapper.h"
#include "halfstep/scaling/grad_scaler.h"

#include <memory>
#include <optional>

namespace halfstep {

/// An OptimWrapper that trains in mixed precision: `optim_context` is an autocast region, backward
/// is made on the scaled loss, and a step with an inf or NaN in its gradients is skipped. The same
/// loop, with one class changed:
///
///   halfstep::AmpOptimWrapper wrapper(
///       optimizer, halfstep::AmpOptimWrapperOptions().accumulative_counts(8));
///
/// Works on CPU and CUDA, by the device of the optimizer's first parameter. With a fused optimizer
/// (halfstep::optim) nothing syncs, clipping included, and `step`'s result is known on the device
/// only; with others each step reads whether it is to be skipped. Gradients are unscaled in place
/// only where they are clipped outside of a fused optimizer.
///
/// Differences from MMEngine: CPU works; no scale in bfloat16 unless one is asked for; a skipped
/// step is told (`step`, `update_params`, `skipped_steps`) so that schedules stand still; float32
/// as dtype is an error, because OptimWrapper does that.
class AmpOptimWrapper : public OptimWrapper {
 public:
  /// Throws UsageError as OptimWrapper's, for an optimizer without parameters, another dtype or
  /// loss_scale, and for scaler options out of range.
  explicit AmpOptimWrapper(torch::optim::Optimizer& optimizer,
                           const AmpOptimWrapperOptions& options = AmpOptimWrapperOptions());
  explicit AmpOptimWrapper(std::shared_ptr<torch::optim::Optimizer> optimizer,
                           const AmpOptimWrapperOptions& options = AmpOptimWrapperOptions());
  ~AmpOptimWrapper() override;

  /// Disabled where nothing is scaled.
  GradScaler& scaler() { return scaler_; }
  const GradScaler& scaler() const { return scaler_; }

  /// The present scale; 1 where nothing is scaled. Syncs with its device.
  double get_scale() const { return scaler_.get_scale(); }

  /// Steps that were skipped since the wrapper was made. Syncs.
  int64_t skipped_steps() { return scaler_.overflows().skipped_steps + skipped_before_; }

  /// The type the layers run in; float32 after a fall_back() from bfloat16.
  c10::ScalarType dtype() const { return dtype_; }
  c10::DeviceType device_type() const { return device_type_; }

  /// What the last step did; none before the first. Reading whether it stepped may sync, having it
  /// does not.
  const std::optional<StepResult>& last_result() const { return last_result_; }

  /// Goes on in the next wider precision and without a loss scale: bfloat16 instead of float16,
  /// float32 instead of bfloat16. For overflows that no scale ends (GradScaler::diagnosis). Call it
  /// between steps; gradients that are there, scaled as they are, are dropped.
  void fall_back();

  /// OptimWrapper's keys, "loss_scaler" with GradScaler's five where it scales, and "fallen_to",
  /// the dtype, after a fall_back().
  void save(torch::serialize::OutputArchive& archive) const override;
  /// Takes what a plain optimizer or an OptimWrapper saved, too: the scale stays then. Falls back
  /// as far as the saved one had; a fall_back() of this one stays.
  void load(torch::serialize::InputArchive& archive) override;

  void print(std::ostream& stream) const override;

 protected:
  const char* type_name() const override { return "AmpOptimWrapper"; }
  void run_backward(const at::Tensor& loss) override;
  StepResult run_step() override;
  void unscale_gradients() override;
  std::optional<AutocastOptions> autocast() const override;
  bool rehearses() const override;

 private:
  c10::DeviceType device_type_;
  c10::ScalarType dtype_;
  std::optional<OpPolicy> policy_;
  GradScaler scaler_;
  int64_t skipped_before_ = 0;  // by scalers before this one
  bool fell_back_ = false;
  std::optional<StepResult> last_result_;
};

}  // namespace halfstep
