#pragma once
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

  /// Before a backward: puts the gradients there are aside, since they are unscaled and the new
  /// ones will not be. Nothing where the last backward left scaled ones.
  void begin_backward();

  /// After it, without unscaling: the gradients stay scaled by the scale of `loss_id`.
  void leave_scaled(int64_t loss_id) { scaled_by_ = loss_id; }
  const std::optional<int64_t>& scaled_by() const { return scaled_by_; }

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

  /// The float32 master of a parameter of the model; undefined where it has none (yet).
  at::Tensor master_of(const at::Tensor& model) const;

  /// The tensors the optimizer steps, whose gradients are unscaled: to be clipped.
  std::vector<at::Tensor> master_params() const;

 private:
  /// A parameter: what the model computes with, and what the optimizer steps, the same without a
  /// master.
  struct Parameter {
    at::Tensor model, stepped, aside;
    // Of the model's tensor when the master was last written to it.
    uint32_t version = 0;
    const void* address = nullptr;
    bool has_master() const { return !model.is_same(stepped); }
    void note_written();
    void follow_model();
  };

  Parameter take(at::Tensor& listed);

  torch::optim::Optimizer* optimizer_;
  bool master_weights_, keeps_own_masters_;
  std::size_t groups_taken_ = 0;
  std::vector<Parameter> parameters_;
  std::optional<int64_t> scaled_by_;
  at::Tensor found_inf_;
};

}  // namespace halfstep::apex::detail
