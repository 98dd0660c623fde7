#pragma once
#include "halfstep/optim/fused_optimizer.h"
#include "halfstep/optim/momentum.h"

namespace halfstep::optim {

/// Options of SGD: names and defaults of torch::optim::SGDOptions and Python's.
class SGDOptions : public detail::OptionsOf<SGDOptions>, public MomentumOptions {
 public:
  /// Difference from LibTorch, which has no default learning rate: it is Python's.
  SGDOptions() = default;
  SGDOptions(double lr) { this->lr(lr); }

  /// Learning rate. Default: 1e-3. At least 0.
  HALFSTEP_OPTIM_FIELD(SGDOptions, double, lr, 1e-3);
  /// Default: 0. At least 0.
  HALFSTEP_OPTIM_FIELD(SGDOptions, double, momentum, 0);
  /// The gradient enters the momentum times `1 - dampening`. Default: 0.
  HALFSTEP_OPTIM_FIELD(SGDOptions, double, dampening, 0);
  /// `weight_decay * parameter` is added to the gradient. Default: 0. At least 0.
  HALFSTEP_OPTIM_FIELD(SGDOptions, double, weight_decay, 0);
  /// Nesterov momentum: needs a momentum and no dampening. Default: false.
  HALFSTEP_OPTIM_FIELD(SGDOptions, bool, nesterov, false);
  /// Climb instead of descend. Default: false. LibTorch's own SGD has no such option.
  HALFSTEP_OPTIM_FIELD(SGDOptions, bool, maximize, false);

 public:
  void validate(const char* where) const override;

  /// As MomentumOptions says.
  double get_momentum() const override { return momentum(); }
  void set_momentum(double value) override { momentum(value); }

  /// Every field by its name, for saving, loading and inherit().
  static constexpr auto fields() {
    using detail::NamedField;
    return std::tuple(NamedField{"lr", &SGDOptions::lr_},
                      NamedField{"momentum", &SGDOptions::momentum_},
                      NamedField{"dampening", &SGDOptions::dampening_},
                      NamedField{"weight_decay", &SGDOptions::weight_decay_},
                      NamedField{"nesterov", &SGDOptions::nesterov_},
                      NamedField{"maximize", &SGDOptions::maximize_});
  }
};

/// State of SGD for one parameter, as in FusedState: the buffer momentum_buffer, and no `step`.
/// Empty without momentum.
class SGDParamState : public FusedState {
 public:
  const at::Tensor& momentum_buffer() const { return buffers[0]; }

  std::array<const char*, kBuffers> buffer_names() const override {
    return {"momentum_buffer", nullptr, nullptr};
  }
  std::unique_ptr<OptimizerParamState> clone() const override {
    return std::make_unique<SGDParamState>(*this);
  }
};

/// SGD with the fused kernels; see FusedOptimizer. With Kernel::aten the same bits as Python's
/// torch.optim.SGD(fused=True).
///
/// Each parameter's momentum starts as its first gradient, also where others began earlier
/// (Difference from Python, which fails then). On CUDA with a dampening, a parameter's first step
/// syncs to learn whether it was skipped.
///
///   halfstep::optim::SGD sgd(net->parameters(), halfstep::optim::SGDOptions(0.1).momentum(0.9));
class SGD : public FusedOptimizer {
 public:
  /// Options that a group does not set are those of `defaults`. Throws UsageError for a value out
  /// of range, and for a parameter that is no leaf or listed twice.
  explicit SGD(const std::vector<torch::optim::OptimizerParamGroup>& param_groups,
               SGDOptions defaults = {});
  explicit SGD(std::vector<at::Tensor> params, SGDOptions defaults = {});

  /// Archives of LibTorch's torch::optim::SGD can be read too (not the other way round).
  void save(torch::serialize::OutputArchive& archive) const override;
  void load(torch::serialize::InputArchive& archive) override;

 protected:
  std::unique_ptr<FusedState> make_state() const override;
  void fill_state(FusedState& state, const at::Tensor& parameter, c10::ScalarType dtype,
                  const FusedOptions& options) const override;
  void call_aten(const detail::FusedBatch& batch, const FusedOptions& options) const override;
  detail::StepRule make_rule(const FusedOptions& options, double step,
                             bool is_first_step) const override;
  std::size_t uses_buffers(const FusedOptions& options) const override;
  bool aten_is_wrong(c10::ScalarType dtype) const override;
  float direction(const FusedOptions& options) const override;
  bool first_step_differs(const FusedOptions& options) const override;
  bool drops_skipped_first_step(const FusedOptions& options) const override;
};

}  // namespace halfstep::optim
