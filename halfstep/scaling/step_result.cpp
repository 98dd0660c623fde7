#include "halfstep/scaling/step_result.h"

#include <utility>

namespace halfstep {

StepResult::StepResult(std::optional<bool> stepped, at::Tensor found_inf, at::Tensor loss)
    : stepped_(stepped), found_inf_(std::move(found_inf)), loss_(std::move(loss)) {}

StepResult StepResult::known(bool stepped, at::Tensor found_inf, at::Tensor loss) {
  return {stepped, std::move(found_inf), std::move(loss)};
}

StepResult StepResult::on_device(at::Tensor found_inf, at::Tensor loss) {
  return {std::nullopt, std::move(found_inf), std::move(loss)};
}

bool StepResult::stepped() const {
  if (!stepped_) stepped_ = found_inf_.item<float>() == 0;
  return *stepped_;
}

}  // namespace halfstep
