#pragma once
#include "halfstep/optim/fused_optimizer.h"
#include "halfstep/optim/momentum.h"

namespace halfstep::optim {

namespace detail {

/// The fields that Adam and AdamW share.
template <class Derived>
class AdamFields : public OptionsOf<Derived>, public MomentumOptions {
 public:
  using betas_t = std::tuple<double, double>;

  /// Learning rate. Default: 1e-3. At least 0.
  HALFSTEP_OPTIM_FIELD(Derived, double, lr, 1e-3);
  /// Decay of the running averages of the gradient and of its square. Default: 0.9 and 0.999. In
  /// [0, 1).
  HALFSTEP_OPTIM_FIELD(Derived, betas_t, betas, betas_t(0.9, 0.999));
  /// Added to the denominator. Default: 1e-8. At least 0.
  HALFSTEP_OPTIM_FIELD(Derived, double, eps, 1e-8);
  /// Adam adds `weight_decay * parameter` to the gradient, AdamW takes `lr * weight_decay *
  /// parameter` off the parameter. Default: 0 (Adam), 1e-2 (AdamW). At least 0.
  HALFSTEP_OPTIM_FIELD(Derived, double, weight_decay, Derived::kWeightDecay);
  /// Divide by the largest running average of squares so far. Default: false.
  HALFSTEP_OPTIM_FIELD(Derived, bool, amsgrad, false);
  /// Climb instead of descend. Default: false. LibTorch's own Adam has no such option.
  HALFSTEP_OPTIM_FIELD(Derived, bool, maximize, false);

 public:
  void validate(const char* where) const override;

  double get_momentum() const override { return std::get<0>(betas()); }
  void set_momentum(double momentum) override { betas({momentum, std::get<1>(betas())}); }

  static constexpr auto fields() {
    return std::tuple(NamedField{"lr", &AdamFields::lr_}, NamedField{"betas", &AdamFields::betas_},
                      NamedField{"eps", &AdamFields::eps_},
                      NamedField{"weight_decay", &AdamFields::weight_decay_},
                      NamedField{"amsgrad", &AdamFields::amsgrad_},
                      NamedField{"maximize", &AdamFields::maximize_});
  }
};

}  // namespace detail

/// Options of Adam: names and defaults of torch::optim::AdamOptions and Python's.
class AdamOptions : public detail::AdamFields<AdamOptions> {
 public:
  static constexpr double kWeightDecay = 0;
  AdamOptions() = default;
  /// Not explicit, as LibTorch's: a rate alone is options.
  AdamOptions(double lr) { this->lr(lr); }
};

/// Options of AdamW: names and defaults of torch::optim::AdamWOptions and Python's.
class AdamWOptions : public detail::AdamFields<AdamWOptions> {
 public:
  static constexpr double kWeightDecay = 1e-2;
  AdamWOptions() = default;
  /// Not explicit, as LibTorch's: a rate alone is options.
  AdamWOptions(double lr) { this->lr(lr); }
};

/// State of Adam and AdamW for one parameter, as in FusedState: buffers exp_avg, exp_avg_sq and,
/// with amsgrad, max_exp_avg_sq.
class AdamParamState : public FusedState {
 public:
  const at::Tensor& exp_avg() const { return buffers[0]; }
  const at::Tensor& exp_avg_sq() const { return buffers[1]; }
  const at::Tensor& max_exp_avg_sq() const { return buffers[2]; }

  std::array<const char*, kBuffers> buffer_names() const override {
    return {"exp_avg", "exp_avg_sq", "max_exp_avg_sq"};
  }
  std::unique_ptr<OptimizerParamState> clone() const override {
    return std::make_unique<AdamParamState>(*this);
  }
};

/// Adam with the fused kernels; see FusedOptimizer. With Kernel::aten the same bits as Python's
/// torch.optim.Adam(fused=True).
///
///   halfstep::optim::Adam adam(net->parameters(), halfstep::optim::AdamOptions(1e-3));
class Adam : public FusedOptimizer {
 public:
  /// Options that a group does not set are those of `defaults`. Throws UsageError for a value out
  /// of range, and for a parameter that is no leaf or listed twice.
  explicit Adam(const std::vector<torch::optim::OptimizerParamGroup>& param_groups,
                AdamOptions defaults = {});
  explicit Adam(std::vector<at::Tensor> params, AdamOptions defaults = {});

  /// Archives of LibTorch's torch::optim::Adam can be read too (not the other way round).
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
  float direction(const FusedOptions& options) const override;
};

/// AdamW with the fused kernels; see FusedOptimizer. With Kernel::aten the same bits as Python's
/// torch.optim.AdamW(fused=True).
class AdamW : public FusedOptimizer {
 public:
  /// Options that a group does not set are those of `defaults`. Throws UsageError for a value out
  /// of range, and for a parameter that is no leaf or listed twice.
  explicit AdamW(const std::vector<torch::optim::OptimizerParamGroup>& param_groups,
                 AdamWOptions defaults = {});
  explicit AdamW(std::vector<at::Tensor> params, AdamWOptions defaults = {});

  /// Archives of LibTorch's torch::optim::AdamW can be read too (not the other way round).
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
  float direction(const FusedOptions& options) const override;
};

}  // namespace halfstep::optim
