#include "halfstep/nn/linear.h"

#include <ATen/ops/linear.h>

namespace halfstep::nn {

torch::Tensor LinearImpl::forward(const torch::Tensor& input) {
  return at::linear(input, weight, bias);
}

// The base class's clone would make a torch::nn::Linear.
std::shared_ptr<torch::nn::Module> LinearImpl::clone(
    const std::optional<torch::Device>& device) const {
  const torch::NoGradGuard no_grad;
  auto copy = std::make_shared<LinearImpl>(options);
  copy->train(is_training());
  for (const auto& parameter : named_parameters(/*recurse=*/false)) {
    const auto& value = parameter.value();
    copy->named_parameters(false)[parameter.key()].set_data(
        value.to(device.value_or(value.device()), value.scalar_type(), /*non_blocking=*/false,
                 /*copy=*/true));
  }
  return copy;
}

void LinearImpl::pretty_print(std::ostream& stream) const {
  stream << std::boolalpha << "halfstep::nn::Linear(in_features=" << options.in_features()
         << ", out_features=" << options.out_features() << ", bias=" << options.bias() << ")";
}

}  // namespace halfstep::nn
