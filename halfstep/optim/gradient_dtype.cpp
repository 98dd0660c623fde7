#include "halfstep/optim/gradient_dtype.h"

#include "halfstep/core/dtype.h"
#include "halfstep/core/error.h"

#include <torch/csrc/autograd/variable.h>

namespace halfstep::optim {

void set_gradient_dtype(at::TensorList parameters, c10::ScalarType dtype) {
  constexpr const char* where = "set_gradient_dtype";
  HALFSTEP_CHECK_USAGE(c10::isFloatingType(dtype), where,
                       "dtype must be a floating-point one, but got ", dtype_name(dtype),
                       "; use float32 or bfloat16");
  for (const auto& parameter : parameters) {
    HALFSTEP_CHECK_USAGE(
        parameter.defined() && parameter.is_leaf() && c10::isFloatingType(parameter.scalar_type()),
        where, "parameters must be floating-point leaves, but got ",
        parameter.defined() ? parameter.toString() : "an undefined tensor",
        "; leave the others out");
    const auto& gradient = parameter.grad();
    HALFSTEP_CHECK_USAGE(!gradient.defined() || gradient.scalar_type() == dtype, where,
                         "a gradient that is there must have the dtype ", dtype_name(dtype),
                         ", but got one in ", dtype_name(gradient.scalar_type()),
                         "; call zero_grad() first");
  }
  for (const auto& parameter : parameters)
    torch::autograd::impl::materialize_autograd_meta(parameter)->set_grad_dtype(dtype, parameter);
}

c10::ScalarType gradient_dtype(const at::Tensor& parameter) {
  const auto* meta = torch::autograd::impl::get_autograd_meta(parameter);
  const auto dtype = meta ? meta->grad_dtype(parameter) : std::nullopt;
  return dtype.value_or(parameter.scalar_type());
}

}  // namespace halfstep::optim
