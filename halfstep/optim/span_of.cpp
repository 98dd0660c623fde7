#include "halfstep/optim/span_of.h"

namespace halfstep::optim::detail {

std::optional<Element> element_of(c10::ScalarType dtype) {
  switch (dtype) {
    case c10::kFloat:
      return Element::float32;
    case c10::kBFloat16:
      return Element::bfloat16;
    case c10::kHalf:
      return Element::float16;
    default:
      return std::nullopt;
  }
}

void set_gradient(KernelSpan& span, const at::Tensor& gradient) {
  span.gradient = gradient.const_data_ptr();
  span.gradient_element = *element_of(gradient.scalar_type());
  span.size = gradient.numel();
}

}  // namespace halfstep::optim::detail
