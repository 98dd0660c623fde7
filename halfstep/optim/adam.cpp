#include "halfstep/optim/adam.h"

#include <cmath>

#include <ATen/ops/_fused_adam.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/zeros.h>
#include <torch/optim/serialize.h>

namespace halfstep::optim {

using torch::optim::OptimizerParamGroup;

namespace detail {

template <class Derived>
void AdamFields<Derived>::validate(const char* where) const {
  check_at_least_zero(lr(), "lr", where);
  check_at_least_zero(eps(), "eps", where);
  check_at_least_zero(weight_decay(), "weight_decay", where);
  const auto [beta1, beta2] = betas();
  HALFSTEP_CHECK_USAGE(beta1 >= 0 && beta1 < 1 && beta2 >= 0 && beta2 < 1, where,
                       "betas must be two numbers in [0, 1), but got ", beta1, " and ", beta2,
                       "; 0.9 and 0.999 are usual");
}

template class AdamFields<AdamOptions>;
template class AdamFields<AdamWOptions>;

namespace {

void fill_adam_state(FusedState& state, const at::Tensor& parameter, c10::ScalarType dtype,
                     bool amsgrad) {
  if (!state.step.defined())
    state.step = at::zeros({}, parameter.options().dtype(c10::kFloat).requires_grad(false));
  const std::size_t used = amsgrad ? 3 : 2;
  for (std::size_t i = 0; i < used; ++i) {
    if (!state.buffers[i].defined()) state.buffers[i] = buffer_like(parameter, dtype);
  }
}

template <class Options, class Kernel>
void call_adam(const FusedBatch& batch, const Options& options, const Kernel& kernel) {
  const auto call = [&](const auto& lr) {
    const auto [beta1, beta2] = options.betas();
    kernel(batch.parameters, batch.gradients, batch.buffers[0], batch.buffers[1],
           options.amsgrad() ? at::TensorList(batch.buffers[2]) : at::TensorList(), batch.steps, lr,
           beta1, beta2, options.weight_decay(), options.eps(), options.amsgrad(),
           options.maximize(), batch.grad_scale, batch.found_inf);
  };
  batch.lr.defined() ? call(batch.lr) : call(options.lr());
}

template <class Options>
StepRule make_adam_rule(const Options& options, double step, bool decoupled) {
  const auto [beta1, beta2] = options.betas();
  const double root = std::sqrt(1 - std::pow(beta2, step));
  const double decay = options.weight_decay();
  return AdamRule{.beta1 = static_cast<float>(beta1),
                  .one_minus_beta1 = static_cast<float>(1 - beta1),
                  .beta2 = static_cast<float>(beta2),
                  .one_minus_beta2 = static_cast<float>(1 - beta2),
                  .rate = static_cast<float>(options.lr() / (1 - std::pow(beta1, step)) * root),
                  .eps = static_cast<float>(options.eps() * root),
                  .decay = static_cast<float>(decoupled ? 0 : decay),
                  .shrink = static_cast<float>(decoupled ? 1 - options.lr() * decay : 1)};
}

// The kernels have overloads, for a learning rate that is a number or a tensor.
constexpr auto adam_kernel = [](auto&&... arguments) { at::_fused_adam_(arguments...); };
constexpr auto adamw_kernel = [](auto&&... arguments) { at::_fused_adamw_(arguments...); };

}  // namespace

}  // namespace detail

Adam::Adam(const std::vector<OptimizerParamGroup>& param_groups, AdamOptions defaults)
    : FusedOptimizer("Adam", param_groups, std::make_unique<AdamOptions>(std::move(defaults))) {}

Adam::Adam(std::vector<at::Tensor> params, AdamOptions defaults)
    : Adam(std::vector{OptimizerParamGroup(std::move(params))}, std::move(defaults)) {}

std::unique_ptr<FusedState> Adam::make_state() const {
  return std::make_unique<AdamParamState>();
}

void Adam::fill_state(FusedState& state, const at::Tensor& parameter, c10::ScalarType dtype,
                      const FusedOptions& options) const {
  detail::fill_adam_state(state, parameter, dtype,
                          static_cast<const AdamOptions&>(options).amsgrad());
}

void Adam::call_aten(const detail::FusedBatch& batch, const FusedOptions& options) const {
  detail::call_adam(batch, static_cast<const AdamOptions&>(options), detail::adam_kernel);
}

detail::StepRule Adam::make_rule(const FusedOptions& options, double step, bool) const {
  return detail::make_adam_rule(static_cast<const AdamOptions&>(options), step,
                                /*decoupled=*/false);
}

std::size_t Adam::uses_buffers(const FusedOptions& options) const {
  return static_cast<const AdamOptions&>(options).amsgrad() ? 3 : 2;
}

float Adam::direction(const FusedOptions& options) const {
  return static_cast<const AdamOptions&>(options).maximize() ? -1 : 1;
}

void Adam::save(torch::serialize::OutputArchive& archive) const {
  torch::optim::serialize<AdamParamState, AdamOptions>(archive, *this);
}

void Adam::load(torch::serialize::InputArchive& archive) {
  load_with([&] { torch::optim::serialize<AdamParamState, AdamOptions>(archive, *this); });
}

AdamW::AdamW(const std::vector<OptimizerParamGroup>& param_groups, AdamWOptions defaults)
    : FusedOptimizer("AdamW", param_groups, std::make_unique<AdamWOptions>(std::move(defaults))) {}

AdamW::AdamW(std::vector<at::Tensor> params, AdamWOptions defaults)
    : AdamW(std::vector{OptimizerParamGroup(std::move(params))}, std::move(defaults)) {}

std::unique_ptr<FusedState> AdamW::make_state() const {
  return std::make_unique<AdamParamState>();
}

void AdamW::fill_state(FusedState& state, const at::Tensor& parameter, c10::ScalarType dtype,
                       const FusedOptions& options) const {
  detail::fill_adam_state(state, parameter, dtype,
                          static_cast<const AdamWOptions&>(options).amsgrad());
}

void AdamW::call_aten(const detail::FusedBatch& batch, const FusedOptions& options) const {
  detail::call_adam(batch, static_cast<const AdamWOptions&>(options), detail::adamw_kernel);
}

detail::StepRule AdamW::make_rule(const FusedOptions& options, double step, bool) const {
  return detail::make_adam_rule(static_cast<const AdamWOptions&>(options), step,
                                /*decoupled=*/true);
}

std::size_t AdamW::uses_buffers(const FusedOptions& options) const {
  return static_cast<const AdamWOptions&>(options).amsgrad() ? 3 : 2;
}

float AdamW::direction(const FusedOptions& options) const {
  return static_cast<const AdamWOptions&>(options).maximize() ? -1 : 1;
}

void AdamW::save(torch::serialize::OutputArchive& archive) const {
  torch::optim::serialize<AdamParamState, AdamWOptions>(archive, *this);
}

void AdamW::load(torch::serialize::InputArchive& archive) {
  load_with([&] { torch::optim::serialize<AdamParamState, AdamWOptions>(archive, *this); });
}

}  // namespace halfstep::optim
