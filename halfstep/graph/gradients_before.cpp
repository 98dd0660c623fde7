#include "halfstep/graph/gradients_before.h"

#include "halfstep/graph/strided_copy.h"

#include <utility>

#include <c10/core/GradMode.h>

namespace halfstep::detail {

GradientsBefore::GradientsBefore(std::vector<at::Tensor> parameters)
    : parameters_(std::move(parameters)) {
  for (const auto& parameter : parameters_) {
    gradients_.push_back(parameter.grad());
    copies_.push_back(parameter.grad().defined() ? strided_copy(parameter.grad()) : at::Tensor());
  }
}

void GradientsBefore::restore() {
  const c10::NoGradGuard no_grad;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    if (gradients_[i].defined()) gradients_[i].copy_(copies_[i]);
    parameters_[i].mutable_grad() = gradients_[i];
  }
}

}  // namespace halfstep::detail
