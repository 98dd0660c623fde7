#include "halfstep/autocast/cast_cache.h"
#include "halfstep/core/error.h"
#include "halfstep/optim/fused_optimizer.h"

#include <algorithm>

#include <c10/core/GradMode.h>

namespace halfstep::optim {

bool FusedOptimizer::has_master(const at::Tensor& parameter) const {
  return detail::takes_master(parameter.scalar_type(), settings_.master_weights);
}

std::vector<FusedOptimizer::SettledMaster> FusedOptimizer::settled_masters() const {
  std::vector<SettledMaster> result;
  if (settings_.master_weights == MasterWeights::none) return result;
  for (const auto& group : param_groups_) {
    for (const auto& parameter : group.params()) {
      const auto found = state_.find(parameter.unsafeGetTensorImpl());
      if (found == state_.end()) continue;
      auto* state = static_cast<FusedState*>(found->second.get());
      if (state->master.defined() && state->mark.is_of(parameter))
        result.push_back({state, parameter});
    }
  }
  return result;
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
  detail::check_master(parameter, settings_.master_weights, where_);
  detail::adopt(state, parameter, settings_.master_weights, where_);
  detail::settle_master(state, parameter, settings_.master_weights);
  return settings_.master_weights == MasterWeights::float32
             ? state.master
             : detail::join_master(parameter, state.master);
}

void FusedOptimizer::set_master(const at::Tensor& parameter, const at::Tensor& master) {
  const auto is_listed = [&](const torch::optim::OptimizerParamGroup& group) {
    return std::any_of(group.params().begin(), group.params().end(),
                       [&](const at::Tensor& listed) { return listed.is_same(parameter); });
  };
  HALFSTEP_CHECK_USAGE(
      std::any_of(param_groups_.begin(), param_groups_.end(), is_listed) && has_master(parameter),
      where_,
      "set_master takes a 16-bit parameter of an optimizer with master_weights, but got another "
      "one; set that option, or write the parameter itself");
  HALFSTEP_CHECK_USAGE(master.sizes() == parameter.sizes(), where_,
                       "a master must have its parameter's shape ", parameter.sizes(), ", but has ",
                       master.sizes(), "; pass the one of this parameter");
  detail::check_master(parameter, settings_.master_weights, where_);
  const c10::NoGradGuard no_grad;
  auto& state = state_[parameter.unsafeGetTensorImpl()];
  if (!state) state = make_state();
  detail::set_master(static_cast<FusedState&>(*state), parameter, master, settings_.master_weights);
  halfstep::detail::clear_cast_cache();
}

}  // namespace halfstep::optim
