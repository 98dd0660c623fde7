#pragma once
#include "halfstep/core/weight_mark.h"
#include "halfstep/optim/fused_optimizer.h"
#include "halfstep/scaling/grad_scaler.h"
#include "halfstep/scaling/step_result.h"

#include <cstdint>
#include <optional>
#include <vector>

#include <ATen/core/Tensor.h>
#include <torch/optim/optimizer.h>

namespace halfstep::apex::detail {

/// Throws UsageError for an optimizer that Amp can't step.
void check_optimizer(torch::optim::Optimizer& optimizer);

/// What Amp keeps for one optimizer: float32 masters of its 16-bit parameters, and what gradients
/// wait while several losses add to them.
class AmpOptimizer {
 public:
  /// With `master_weights`, puts a float32 master in the place of each 16-bit parameter of the
  /// optimizer, unless it keeps masters of its own, and has autograd keep the gradients of these
  /// parameters in float32.
  AmpOptimizer(torch::optim::Optimizer& optimizer, bool master_weights);

  torch::optim::Optimizer& optimizer() const { return *optimizer_; }

  /// The same for groups added since.
  void take_new_groups();

  /// Whether a scope of scale_loss is open: between `open` and `close`.
  bool is_open() const { return is_open_; }
  void open() { is_open_ = true; }
  void close() { is_open_ = false; }

  /// Before a backward of a scaled loss: puts the gradients there are aside, those of a master that
  /// were zeroed on the model's side or the optimizer's on both.
  void begin_backward();

  /// After it, without unscaling: the gradients stay scaled by the scale of `loss_id`. Where it
  /// made none, all is as before it.
  void leave_scaled(int64_t loss_id);

  /// The loss_id whose scale the gradients were left with; none where they were zeroed since.
  std::optional<int64_t> scaled_by();

  /// Whether the backward, or one before it that left them scaled, made gradients.
  bool has_scaled_gradients() const;

  /// After it: divides the gradients by the scale and says whether any is inf or NaN (undefined
  /// where there is none), then adds what was put aside.
  at::Tensor unscale(GradScaler& scaler);

  /// Where it failed: the gradients are what they were before.
  void cancel_backward() noexcept;

  /// The next step is left out where `found_inf` is not 0.
  void skip_if(const at::Tensor& found_inf);

  /// Steps, or skips, and writes the masters to the parameters.
  StepResult step();

  /// Drops all gradients, the model's and the masters'.
  void zero_grad();

  /// The float32 master the next step goes on with; undefined where the parameter has none (yet).
  at::Tensor master_of(const at::Tensor& model) const;

  /// Gives a parameter with a master this one; nothing for others.
  void set_master(const at::Tensor& model, const at::Tensor& master);

  /// The tensors the optimizer steps, whose gradients are unscaled: to be clipped.
  std::vector<at::Tensor> master_params() const;

 private:
  /// A parameter: what the model computes with, and what the optimizer steps, the same without a
  /// master. Between a scope and the step both have one gradient.
  struct Parameter {
    at::Tensor model, stepped;
    at::Tensor aside = {};   // its gradient from before the backward, unscaled
    at::Tensor scaled = {};  // the same, still scaled
    bool was_left_scaled = false;
    // The model's tensor when the master was last written to it.
    halfstep::detail::WeightMark mark = {};

    bool has_master() const { return !model.is_same(stepped); }
    void set_gradient(const at::Tensor& gradient) const;
    /// Adds what was kept to the gradient, and keeps it no more.
    void take_back(at::Tensor& kept) const;
    void follow_model();
  };

  void drop_zeroed();
  optim::FusedOptimizer* keeper_of(const Parameter& parameter) const;
  Parameter take(at::Tensor& listed);

  torch::optim::Optimizer* optimizer_;
  bool master_weights_, keeps_own_masters_;
  bool is_open_ = false;
  std::size_t groups_taken_ = 0;
  std::vector<Parameter> parameters_;
  std::optional<int64_t> scaled_by_;
  at::Tensor found_inf_;
};

}  // namespace halfstep::apex::detail
