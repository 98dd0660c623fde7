#include "halfstep/optim_wrapper/clip_grad.h"

#include "halfstep/core/error.h"
#include "halfstep/optim/clip_grad.h"

namespace halfstep {

ClipGrad ClipGrad::norm(double max_norm, double norm_type) {
  return {true, max_norm, norm_type};
}

ClipGrad ClipGrad::value(double clip_value) {
  return {false, clip_value, 2.0};
}

void ClipGrad::validate(const char* where) const {
  optim::detail::check_limit(limit_, is_norm_ ? "clip_grad: max_norm" : "clip_grad: clip_value",
                             where);
  optim::detail::check_norm_type(norm_type_, where);
}

std::string ClipGrad::describe() const {
  const std::string text = c10::str(is_norm_ ? "norm " : "value ", limit_);
  return is_norm_ && norm_type_ != 2 ? c10::str(text, " (", norm_type_, "-norm)") : text;
}

}  // namespace halfstep
