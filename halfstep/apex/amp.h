#pragma once
#include "halfstep/apex/amp_optimizer.h"
#include "halfstep/apex/options.h"
#include "halfstep/apex/scaled_loss.h"
#include "halfstep/autocast/autocast.h"
#include "halfstep/core/module_object.h"
#include "halfstep/core/module_tensors.h"
#include "halfstep/core/nested.h"
#include "halfstep/scaling/grad_scaler.h"
#include "halfstep/scaling/step_result.h"

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <torch/nn/module.h>
#include <torch/optim/optimizer.h>
#include <torch/ordered_dict.h>
#include <torch/serialize/archive.h>

namespace halfstep::apex {

/// Models, and optimizers, that are initialized together.
using Models = std::vector<std::reference_wrapper<torch::nn::Module>>;
using Optimizers = std::vector<std::reference_wrapper<torch::optim::Optimizer>>;

/// A program in NVIDIA Apex's words. What Apex's `initialize` patches into models and optimizers,
/// which C++ can't, is called by name here:
///
///   auto amp = halfstep::apex::initialize(*net, optimizer, halfstep::apex::OptLevel::O2);
///   for (auto& batch : *loader) {
///     amp.zero_grad(optimizer);
///     auto loss = F::cross_entropy(amp.forward(net, batch.data), batch.target);
///     {
///       auto scaled_loss = amp.scale_loss(loss, optimizer);
///       scaled_loss->backward();
///     }
///     amp.step(optimizer);
///   }
///
/// Scales are GradScalers of the dialect `dialects::apex`, one for each loss_id; O1 is Autocast
/// with Apex's op lists.
/// With master weights (O2) the optimizer steps float32 masters: those of its own where it is a
/// fused one made with `master_weights`, else copies that stand in its parameter groups. A step
/// must be made by `step`, because a plain `optimizer.step()` would not reach the model. Gradients
/// of 16-bit parameters with masters are float32 (optim::set_gradient_dtype), the model's and the
/// master's being one tensor, unscaled when the scope ends.
///
/// Differences from Apex: any device, not CUDA only; bfloat16; nothing is global; nothing is
/// printed (`step` says whether it skipped) and, for optimizers that take the scale, nothing syncs.
///
/// Models and optimizers must outlive it. Not for use by two threads at once. Errors are
/// UsageErrors.
class Amp {
 public:
  /// See `initialize`.
  Amp(const Models& models, const Optimizers& optimizers, const AmpOptions& options);

  /// Moves, so that it can be returned and kept; a copy would step the same masters twice.
  Amp(Amp&&) = default;
  Amp& operator=(Amp&&) = default;

  /// The level's properties with the overrides; those of a program without Apex (no casts, scale 1)
  /// where the options say `enabled(false)`.
  const Properties& properties() const { return properties_; }

  /// The module's forward as initialize would have patched it: floating-point tensors among the
  /// arguments, also in containers, are cast to cast_model_type, and outputs to float32 or
  /// cast_model_outputs; with O1 it runs in the region of `autocast`, for the device type of the
  /// first tensor argument, without one of the model's parameters. `model` is a module, a pointer
  /// to one or a holder.
  template <class Model, class... Arguments>
  auto forward(Model&& model, Arguments&&... arguments) const;

  /// The region of O1, for what is computed outside of the model (losses): for O1 enabled, in the
  /// half_dtype and with Apex's op lists (OpPolicy::apex), disabled for the other levels.
  ///
  ///   const halfstep::Autocast autocast(amp.autocast(torch::kCUDA));
  AutocastOptions autocast(c10::DeviceType device_type) const;

  /// The loss in float32 times its scale, as a scope: see ScaledLoss. `optimizers` are those whose
  /// parameters get gradients by it; other optimizers' gradients would stay scaled. When it ends,
  /// gradients are unscaled and added to those of the losses before, the scale is updated, and
  /// where one was inf or NaN all these optimizers skip their next step. Where nothing is scaled
  /// (static scale 1, no masters) nothing is checked, as in Apex. Does not sync. Throws UsageError
  /// for an optimizer that was not initialized or is named twice, for a loss_id out of range, and
  /// where a scope of this loss_id or one of the optimizers is still open.
  ScaledLoss scale_loss(const at::Tensor& loss, torch::optim::Optimizer& optimizer,
                        const ScaleLossOptions& options = ScaleLossOptions());
  ScaledLoss scale_loss(const at::Tensor& loss, const Optimizers& optimizers,
                        const ScaleLossOptions& options = ScaleLossOptions());

  /// One step, left out after an overflow; the masters are written to the model. Syncs to learn of
  /// an overflow, unless the optimizer TakesGradScale. Throws UsageError inside a scope of
  /// scale_loss with this optimizer, and where gradients were left scaled.
  StepResult step(torch::optim::Optimizer& optimizer);

  /// Drops the gradients of the model and of the masters. `optimizer.zero_grad()` and
  /// `model->zero_grad()` do as well, unless they only fill with zeros while delay_unscale has left
  /// gradients scaled: what was there before these comes back.
  void zero_grad(torch::optim::Optimizer& optimizer);

  /// What the optimizer steps, masters and parameters that need none, with unscaled gradients after
  /// scale_loss: for clipping.
  ///
  ///   halfstep::optim::clip_grad_norm_(amp.master_params(optimizer), 1.0);
  std::vector<at::Tensor> master_params(torch::optim::Optimizer& optimizer) const;

  /// The model's named parameters and buffers to save, those of 16 bits in float32: the master
  /// where there is one, else a cast. What Apex's hook makes of a state_dict (Difference: that
  /// casts, so that masters are lost). Others are the tensors themselves. Where weights were
  /// written into the model since the last step, as loading does, they count, but for elements that
  /// are their rounded master.
  torch::OrderedDict<std::string, at::Tensor> float32_state(const torch::nn::Module& model) const;

  /// The way back: writes the state to the model, rounded to the weights' 16 bits, and to the
  /// masters, to the bit. Casts to other dtypes too, so a state serves any level. All or nothing:
  /// throws UsageError, before anything is changed, unless names and shapes are the model's.
  void load_float32_state(torch::nn::Module& model,
                          const torch::OrderedDict<std::string, at::Tensor>& state);

  /// Adds a group to an initialized optimizer, with masters where they belong.
  void add_param_group(torch::optim::Optimizer& optimizer,
                       const torch::optim::OptimizerParamGroup& group);

  /// The scaler of a loss; disabled, with a scale of 1, where the options say `enabled(false)`.
  GradScaler& scaler(int64_t loss_id = 0);

  /// The scales' states, under "loss_scaler0", "loss_scaler1", …, each with GradScaler's keys.
  /// `load` is all or nothing: it throws UsageError where their number is another or a state is out
  /// of range, EnvironmentError where one is damaged, before any scale is changed. With
  /// `enabled(false)` nothing is written and nothing read.
  void save(torch::serialize::OutputArchive& archive) const;
  void load(torch::serialize::InputArchive& archive);

 private:
  detail::AmpOptimizer& record_of(torch::optim::Optimizer& optimizer, const char* where);
  const detail::AmpOptimizer& record_of(torch::optim::Optimizer& optimizer,
                                        const char* where) const;
  detail::LossScale& scale_of(int64_t loss_id);
  bool scales() const;

  AmpOptions options_;
  Properties properties_;
  std::optional<OpPolicy> o1_policy_;
  std::vector<detail::LossScale> scales_;
  std::map<const torch::optim::Optimizer*, detail::AmpOptimizer> optimizers_;
};

/// Prepares models and optimizers for a level: casts the models' parameters and buffers in place
/// (O2, O3; batch norms stay float32 with keep_batchnorm_fp32), and makes masters. Call it once,
/// after both are made and before the first step. Throws UsageError, before anything is changed,
/// for contradicting options, a model with 16-bit parameters, gradients that are there already, an
/// optimizer given twice, LBFGS, and one with shadow weights.
///
///   auto amp = initialize(*net, optimizer, AmpOptions(OptLevel::O2).loss_scale(128));
///   auto amp = initialize({*generator, *critic}, {first, second}, AmpOptions().num_losses(3));
Amp initialize(torch::nn::Module& model, torch::optim::Optimizer& optimizer,
               const AmpOptions& options = AmpOptions());
Amp initialize(const Models& models, const Optimizers& optimizers,
               const AmpOptions& options = AmpOptions());

template <class Model, class... Arguments>
auto Amp::forward(Model&& model, Arguments&&... arguments) const {
  auto& module = halfstep::detail::module_object(model);
  const auto in_type = options_.enabled() ? properties_.cast_model_type : std::nullopt;
  auto cast_in = halfstep::detail::CastWhere(
      [&](const at::Tensor& tensor) { return in_type && tensor.is_floating_point(); },
      in_type.value_or(c10::ScalarType::Float));
  auto run = [&] {
    return module.forward(
        halfstep::detail::map_argument(cast_in, std::forward<Arguments>(arguments))...);
  };
  auto output = [&] {
    if (!options_.enabled() || !properties_.patch_torch_functions) return run();
    const Autocast region(autocast(halfstep::detail::device_type_of_call(module, arguments...)));
    return run();
  }();
  auto out_type = options_.cast_model_outputs();
  if (!out_type && in_type) out_type = c10::ScalarType::Float;
  if (!options_.enabled() || !out_type) return output;
  auto cast_out = halfstep::detail::cast_floating(*out_type);
  return halfstep::detail::map_tensors(cast_out, output);
}

}  // namespace halfstep::apex
