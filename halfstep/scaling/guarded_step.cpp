#include "halfstep/scaling/guarded_step.h"

#include "halfstep/autocast/cast_cache.h"

#include <utility>

namespace halfstep::detail {

at::Tensor step_and_clear_cache(torch::optim::Optimizer& optimizer,
                                torch::optim::Optimizer::LossClosure closure) {
  auto loss = optimizer.step(std::move(closure));
  clear_cast_cache();
  return loss;
}

StepResult step_unless(torch::optim::Optimizer& optimizer, const at::Tensor& found_inf) {
  if (auto* taker = dynamic_cast<TakesGradScale*>(&optimizer)) {
    const LentScale lent(*taker);
    if (found_inf.defined()) taker->found_inf = found_inf;
    auto loss = step_and_clear_cache(optimizer);
    return found_inf.defined() ? StepResult::on_device(found_inf, std::move(loss))
                               : StepResult::known(true, {}, std::move(loss));
  }
  const bool skip = found_inf.defined() && found_inf.item<float>() != 0;
  auto loss = skip ? at::Tensor() : step_and_clear_cache(optimizer);
  return StepResult::known(!skip, found_inf, std::move(loss));
}

}  // namespace halfstep::detail
