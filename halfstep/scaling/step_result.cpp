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
  if (stepped_) return *stepped_;
  if (read_) read_->wait();
  stepped_ = (read_ ? read_->value() : found_inf_).item<float>() == 0;
  return *stepped_;
}

bool StepResult::is_known() const {
  return stepped_ || (read_ && read_->ready());
}

void StepResult::start_read() {
  if (!stepped_ && !read_) read_ = std::make_shared<detail::LateRead>(found_inf_);
}

}  // namespace halfstep
