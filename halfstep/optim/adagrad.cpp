#include "halfstep/optim/adagrad.h"

#include "halfstep/core/dtype.h"
#include "halfstep/core/libtorch.h"

#include <ATen/ops/_fused_adagrad.h>
#include <ATen/ops/zeros.h>
#include <torch/optim/serialize.h>

namespace halfstep::optim {

using torch::optim::OptimizerParamGroup;

namespace {
const AdagradOptions& adagrad_options(const FusedOptions& options) {
  return static_cast<const AdagradOptions&>(options);
}
}  // namespace

void AdagradOptions::validate(const char* where) const {
  detail::check_at_least_zero(lr(), "lr", where);
  detail::check_at_least_zero(lr_decay(), "lr_decay", where);
  detail::check_at_least_zero(weight_decay(), "weight_decay", where);
  detail::check_at_least_zero(initial_accumulator_value(), "initial_accumulator_value", where);
  detail::check_at_least_zero(eps(), "eps", where);
}

Adagrad::Adagrad(const std::vector<OptimizerParamGroup>& param_groups, AdagradOptions defaults)
    : FusedOptimizer("Adagrad", param_groups,
                     std::make_unique<AdagradOptions>(std::move(defaults))) {}

Adagrad::Adagrad(std::vector<at::Tensor> params, AdagradOptions defaults)
    : Adagrad(std::vector{OptimizerParamGroup(std::move(params))}, std::move(defaults)) {}

std::unique_ptr<FusedState> Adagrad::make_state() const {
  return std::make_unique<AdagradParamState>();
}

void Adagrad::fill_state(FusedState& state, const at::Tensor& parameter, c10::ScalarType dtype,
                         const FusedOptions& options) const {
  if (!state.step.defined())
    state.step = at::zeros({}, parameter.options().dtype(c10::kFloat).requires_grad(false));
  if (!state.buffers[0].defined())
    state.buffers[0] = detail::buffer_like(parameter, dtype)
                           .fill_(adagrad_options(options).initial_accumulator_value());
}

void Adagrad::call_aten(const detail::FusedBatch& batch, const FusedOptions& options) const {
  const auto& adagrad = adagrad_options(options);
  const auto call = [&](const auto& lr) {
    at::_fused_adagrad_(batch.parameters, batch.gradients, batch.buffers[0], batch.steps, lr,
                        adagrad.lr_decay(), adagrad.weight_decay(), adagrad.eps(),
                        adagrad.maximize(), batch.grad_scale, batch.found_inf);
  };
  batch.lr.defined() ? call(batch.lr) : call(adagrad.lr());
}

detail::StepRule Adagrad::make_rule(const FusedOptions& options, double step, bool) const {
  const auto& adagrad = adagrad_options(options);
  return detail::AdagradRule{
      .rate = static_cast<float>(adagrad.lr() / (1 + (step - 1) * adagrad.lr_decay())),
      .eps = static_cast<float>(adagrad.eps()),
      .decay = static_cast<float>(adagrad.weight_decay())};
}

std::size_t Adagrad::uses_buffers(const FusedOptions&) const {
  return 1;
}

bool Adagrad::aten_is_wrong(c10::ScalarType dtype) const {
  return halfstep::detail::kFused16BitIsWrong && is_low_precision(dtype);
}

float Adagrad::direction(const FusedOptions& options) const {
  return adagrad_options(options).maximize() ? -1 : 1;
}

void Adagrad::save(torch::serialize::OutputArchive& archive) const {
  torch::optim::serialize<AdagradParamState, AdagradOptions>(archive, *this);
}

void Adagrad::load(torch::serialize::InputArchive& archive) {
  load_with([&] { torch::optim::serialize<AdagradParamState, AdagradOptions>(archive, *this); });
}

}  // namespace halfstep::optim
