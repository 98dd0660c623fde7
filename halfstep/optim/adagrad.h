#pragma once
#include "halfstep/optim/fused_optimizer.h"

namespace halfstep::optim {

/// Options of Adagrad: names and defaults of torch::optim::AdagradOptions and Python's.
class AdagradOptions : public detail::OptionsOf<AdagradOptions> {
 public:
  AdagradOptions() = default;
  /// Not explicit, as LibTorch's: a rate alone is options.
  AdagradOptions(double lr) { this->lr(lr); }

  /// Learning rate. Default: 1e-2. At least 0.
  HALFSTEP_OPTIM_FIELD(AdagradOptions, double, lr, 1e-2);
  /// The rate falls as `lr / (1 + (step - 1) * lr_decay)`. Default: 0. At least 0.
  HALFSTEP_OPTIM_FIELD(AdagradOptions, double, lr_decay, 0);
  /// `weight_decay * parameter` is added to the gradient. Default: 0. At least 0.
  HALFSTEP_OPTIM_FIELD(AdagradOptions, double, weight_decay, 0);
  /// What the sums of squares begin with. Default: 0. At least 0.
  HALFSTEP_OPTIM_FIELD(AdagradOptions, double, initial_accumulator_value, 0);
  /// Added to the denominator. Default: 1e-10. At least 0.
  HALFSTEP_OPTIM_FIELD(AdagradOptions, double, eps, 1e-10);
  /// Climb instead of descend. Default: false. LibTorch's own Adagrad has no such option.
  HALFSTEP_OPTIM_FIELD(AdagradOptions, bool, maximize, false);

 public:
  void validate(const char* where) const override;

  /// Every field by its name, for saving, loading and inherit().
  static constexpr auto fields() {
    using detail::NamedField;
    return std::tuple(
        NamedField{"lr", &AdagradOptions::lr_}, NamedField{"lr_decay", &AdagradOptions::lr_decay_},
        NamedField{"weight_decay", &AdagradOptions::weight_decay_},
        NamedField{"initial_accumulator_value", &AdagradOptions::initial_accumulator_value_},
        NamedField{"eps", &AdagradOptions::eps_},
        NamedField{"maximize", &AdagradOptions::maximize_});
  }
};

/// State of Adagrad for one parameter, as in FusedState: the buffer `sum`.
class AdagradParamState : public FusedState {
 public:
  const at::Tensor& sum() const { return buffers[0]; }

  std::array<const char*, kBuffers> buffer_names() const override {
    return {"sum", nullptr, nullptr};
  }
  std::unique_ptr<OptimizerParamState> clone() const override {
    return std::make_unique<AdagradParamState>(*this);
  }
};

/// Adagrad with the fused kernels; see FusedOptimizer. With Kernel::aten the same bits as Python's
/// torch.optim.Adagrad(fused=True), but each group has an initial_accumulator_value of its own
/// (Difference from Python), and state is made at a parameter's first step, not before.
///
///   halfstep::optim::Adagrad adagrad(net->parameters(), halfstep::optim::AdagradOptions(1e-2));
class Adagrad : public FusedOptimizer {
 public:
  /// Options that a group does not set are those of `defaults`. Throws UsageError for a value out
  /// of range, and for a parameter that is no leaf or listed twice.
  explicit Adagrad(const std::vector<torch::optim::OptimizerParamGroup>& param_groups,
                   AdagradOptions defaults = {});
  explicit Adagrad(std::vector<at::Tensor> params, AdagradOptions defaults = {});

  /// Archives of LibTorch's torch::optim::Adagrad can be read too (not the other way round).
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
};

}  // namespace halfstep::optim
