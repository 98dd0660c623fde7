#include "halfstep/core/module_tensors.h"

namespace halfstep::detail {

namespace {

void cast_own(torch::nn::Module& module, c10::ScalarType dtype) {
  const auto cast = [dtype](at::Tensor& tensor) {
    if (tensor.defined() && tensor.is_floating_point() && tensor.scalar_type() != dtype)
      tensor.set_data(tensor.detach().to(dtype));
  };
  for (auto& parameter : module.named_parameters(/*recurse=*/false)) cast(parameter.value());
  for (auto& buffer : module.named_buffers(/*recurse=*/false)) cast(buffer.value());
}

}  // namespace

void cast_floating_tensors(torch::nn::Module& model, c10::ScalarType dtype,
                           const std::function<bool(const torch::nn::Module&)>& wanted) {
  if (!wanted || wanted(model)) cast_own(model, dtype);
  for (const auto& module : model.modules(/*include_self=*/false))
    if (!wanted || wanted(*module)) cast_own(*module, dtype);
}

std::optional<c10::DeviceType> device_type_of(const torch::nn::Module& module) {
  for (const auto& tensors : {module.parameters(), module.buffers()}) {
    for (const auto& tensor : tensors)
      if (tensor.defined()) return tensor.device().type();
  }
  return std::nullopt;
}

}  // namespace halfstep::detail
