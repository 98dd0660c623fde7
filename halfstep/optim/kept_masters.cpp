#include "halfstep/optim/fused_optimizer.h"

#include <c10/core/GradMode.h>

namespace halfstep::optim {

bool FusedOptimizer::has_master(const at::Tensor& parameter) const {
  return detail::takes_master(parameter.scalar_type(), settings_.master_weights);
}

at::Tensor FusedOptimizer::master_of(const at::Tensor& parameter) const {
  const auto found = state_.find(parameter.unsafeGetTensorImpl());
  if (found == state_.end() || !has_master(parameter)) return {};
  const auto& kept = static_cast<const FusedState&>(*found->second);
  if (!kept.master.defined()) return {};
  // A copy that shares the tensors: what the next step would go on with, without a change here.
  const c10::NoGradGuard no_grad;
  const auto copy = kept.clone();
  auto& state = static_cast<FusedState&>(*copy);
  detail::settle_master(state, parameter, settings_.master_weights);
  return settings_.master_weights == MasterWeights::float32
             ? state.master
             : detail::join_master(parameter, state.master);
}

}  // namespace halfstep::optim
