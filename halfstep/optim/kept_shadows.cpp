#include "halfstep/core/error.h"
#include "halfstep/optim/fused_optimizer.h"

namespace halfstep::optim {

void FusedOptimizer::keep_shadow_weights(c10::ScalarType dtype) {
  HALFSTEP_CHECK_USAGE(!settings_.shadow_weights, where_,
                       "shadow weights can be set once, but this optimizer keeps them already; "
                       "leave the second call out");
  settings_.shadow_weights = dtype;
  try {
    for (const auto& group : param_groups_) make_shadows(group.params());
  } catch (...) {
    drop_shadow_weights();
    throw;
  }
}

void FusedOptimizer::drop_shadow_weights() {
  settings_.shadow_weights.reset();
  shadows_.clear();
  shadow_weights_.clear();
}

at::Tensor FusedOptimizer::shadow_of(const at::Tensor& parameter) const {
  const auto found = shadows_.find(parameter.unsafeGetTensorImpl());
  return found == shadows_.end() ? at::Tensor() : found->second.copy();
}

void FusedOptimizer::make_shadows(const std::vector<at::Tensor>& parameters) {
  std::vector<at::Tensor> chosen;
  for (const auto& parameter : parameters) {
    if (parameter.scalar_type() == c10::kFloat && parameter.requires_grad() && parameter.is_leaf())
      chosen.push_back(parameter);
  }
  auto weights = std::make_unique<ShadowWeights>(chosen, *settings_.shadow_weights);
  for (std::size_t i = 0; i < chosen.size(); ++i)
    shadows_[chosen[i].unsafeGetTensorImpl()] = {weights.get(), i};
  shadow_weights_.push_back(std::move(weights));
}

const FusedOptimizer::Shadow* FusedOptimizer::shadow_beside(const at::Tensor& parameter) const {
  const auto found = shadows_.find(parameter.unsafeGetTensorImpl());
  if (found == shadows_.end()) return nullptr;
  // A parameter that was moved to another device since: autocast casts it.
  return found->second.copy().device() == parameter.device() ? &found->second : nullptr;
}

void FusedOptimizer::write_shadow(const at::Tensor& parameter) const {
  if (const auto* shadow = shadow_beside(parameter)) {
    shadow->copy().copy_(parameter);
    shadow->weights->written(shadow->index);
  }
}

void FusedOptimizer::note_shadow(const at::Tensor& parameter) const {
  if (const auto* shadow = shadow_beside(parameter)) shadow->weights->written(shadow->index);
}

}  // namespace halfstep::optim
