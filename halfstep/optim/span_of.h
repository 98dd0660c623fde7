#pragma once
#include "halfstep/optim/kernel_span.h"

#include <optional>

#include <ATen/core/Tensor.h>

namespace halfstep::optim::detail {

/// How the CPU kernels call a dtype; nullopt for one they don't know.
std::optional<Element> element_of(c10::ScalarType dtype);

/// Sets gradient, gradient_element and size from a dense CPU tensor of a known dtype, which must
/// outlive the span.
void set_gradient(KernelSpan& span, const at::Tensor& gradient);

}  // namespace halfstep::optim::detail
