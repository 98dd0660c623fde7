#include "halfstep/scaling/lbfgs_snapshot.h"

#include <c10/core/GradMode.h>

namespace halfstep::detail {

using torch::optim::LBFGSParamState;

namespace {

at::Tensor copy_of(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.detach().clone() : tensor;
}

}  // namespace

LbfgsSnapshot::LbfgsSnapshot(torch::optim::LBFGS& optimizer) : optimizer_(optimizer) {
  for (const auto& parameter : optimizer.param_groups()[0].params())
    parameters_.push_back(copy_of(parameter));
  for (const auto& [key, state] : optimizer.state()) {
    auto copy = std::make_unique<LBFGSParamState>(static_cast<const LBFGSParamState&>(*state));
    // These LBFGS may write in place; the tensors of its history it only replaces.
    copy->d(copy_of(copy->d()));
    copy->H_diag(copy_of(copy->H_diag()));
    copy->prev_flat_grad(copy_of(copy->prev_flat_grad()));
    state_[key] = std::move(copy);
  }
}

void LbfgsSnapshot::restore() {
  const c10::NoGradGuard no_grad;
  const auto& parameters = optimizer_.param_groups()[0].params();
  for (std::size_t i = 0; i < parameters.size(); ++i) parameters[i].copy_(parameters_[i]);
  optimizer_.state() = std::move(state_);
}

}  // namespace halfstep::detail
