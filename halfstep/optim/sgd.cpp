#include "halfstep/optim/sgd.h"

#include "halfstep/core/dtype.h"
#include "halfstep/core/libtorch.h"

#include <ATen/ops/_fused_sgd.h>
#include <torch/optim/serialize.h>

namespace halfstep::optim {

using torch::optim::OptimizerParamGroup;

namespace {
const SGDOptions& sgd_options(const FusedOptions& options) {
  return static_cast<const SGDOptions&>(options);
}
}  // namespace

void SGDOptions::validate(const char* where) const {
  detail::check_at_least_zero(lr(), "lr", where);
  detail::check_at_least_zero(momentum(), "momentum", where);
  detail::check_at_least_zero(weight_decay(), "weight_decay", where);
  HALFSTEP_CHECK_USAGE(!nesterov() || (momentum() > 0 && dampening() == 0), where,
                       "nesterov must have a momentum and no dampening, but got momentum ",
                       momentum(), " and dampening ", dampening(),
                       "; set momentum(0.9), or leave nesterov out");
}

SGD::SGD(const std::vector<OptimizerParamGroup>& param_groups, SGDOptions defaults)
    : FusedOptimizer("SGD", param_groups, std::make_unique<SGDOptions>(std::move(defaults))) {}

SGD::SGD(std::vector<at::Tensor> params, SGDOptions defaults)
    : SGD(std::vector{OptimizerParamGroup(std::move(params))}, std::move(defaults)) {}

std::unique_ptr<FusedState> SGD::make_state() const {
  return std::make_unique<SGDParamState>();
}

void SGD::fill_state(FusedState& state, const at::Tensor& parameter, c10::ScalarType dtype,
                     const FusedOptions& options) const {
  // Zeros, not uninitialised memory: on CUDA a skipped first step leaves them in place.
  if (sgd_options(options).momentum() != 0 && !state.buffers[0].defined())
    state.buffers[0] = detail::buffer_like(parameter, dtype);
}

void SGD::call_aten(const detail::FusedBatch& batch, const FusedOptions& options) const {
  const auto& sgd = sgd_options(options);
  const auto call = [&](const auto& lr) {
    at::_fused_sgd_(batch.parameters, batch.gradients,
                    sgd.momentum() != 0 ? at::TensorList(batch.buffers[0]) : at::TensorList(),
                    sgd.weight_decay(), sgd.momentum(), lr, sgd.dampening(), sgd.nesterov(),
                    sgd.maximize(), batch.is_first_step, batch.grad_scale, batch.found_inf);
  };
  batch.lr.defined() ? call(batch.lr) : call(sgd.lr());
}

detail::StepRule SGD::make_rule(const FusedOptions& options, double, bool is_first_step) const {
  const auto& sgd = sgd_options(options);
  return detail::SgdRule{.rate = static_cast<float>(sgd.lr()),
                         .momentum = static_cast<float>(sgd.momentum()),
                         .one_minus_dampening = static_cast<float>(1 - sgd.dampening()),
                         .decay = static_cast<float>(sgd.weight_decay()),
                         .nesterov = sgd.nesterov(),
                         .is_first_step = is_first_step};
}

std::size_t SGD::uses_buffers(const FusedOptions& options) const {
  return sgd_options(options).momentum() != 0 ? 1 : 0;
}

bool SGD::aten_is_wrong(c10::ScalarType dtype) const {
  return halfstep::detail::kFused16BitIsWrong && is_low_precision(dtype);
}

float SGD::direction(const FusedOptions& options) const {
  return sgd_options(options).maximize() ? -1 : 1;
}

bool SGD::first_step_differs(const FusedOptions& options) const {
  return sgd_options(options).momentum() != 0;
}

bool SGD::drops_skipped_first_step(const FusedOptions& options) const {
  // Without dampening, going on from zeros is the first step's rule.
  return sgd_options(options).dampening() != 0;
}

void SGD::save(torch::serialize::OutputArchive& archive) const {
  torch::optim::serialize<SGDParamState, SGDOptions>(archive, *this);
}

void SGD::load(torch::serialize::InputArchive& archive) {
  load_with([&] { torch::optim::serialize<SGDParamState, SGDOptions>(archive, *this); });
}

}  // namespace halfstep::optim
