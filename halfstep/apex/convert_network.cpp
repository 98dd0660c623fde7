#include "halfstep/apex/convert_network.h"

#include "halfstep/core/dtype.h"
#include "halfstep/core/error.h"

#include <torch/nn/modules/batchnorm.h>

namespace halfstep::apex::detail {

namespace {

bool is_batchnorm(const torch::nn::Module& module) {
  return dynamic_cast<const torch::nn::BatchNorm1dImpl*>(&module) != nullptr ||
         dynamic_cast<const torch::nn::BatchNorm2dImpl*>(&module) != nullptr ||
         dynamic_cast<const torch::nn::BatchNorm3dImpl*>(&module) != nullptr;
}

void cast_own(torch::nn::Module& module, c10::ScalarType dtype) {
  const auto cast = [dtype](at::Tensor& tensor) {
    if (tensor.defined() && tensor.is_floating_point()) tensor.set_data(tensor.detach().to(dtype));
  };
  for (auto& parameter : module.named_parameters(/*recurse=*/false)) cast(parameter.value());
  for (auto& buffer : module.named_buffers(/*recurse=*/false)) cast(buffer.value());
}

}  // namespace

void convert_network(torch::nn::Module& model, c10::ScalarType dtype, bool keep_batchnorm) {
  const auto convert = [&](torch::nn::Module& module) {
    if (!keep_batchnorm || !is_batchnorm(module)) cast_own(module, dtype);
  };
  convert(model);
  for (const auto& module : model.modules(/*include_self=*/false)) convert(*module);
}

void check_is_float32(const torch::nn::Module& model, const char* where) {
  const auto check = [&](const auto& named, const char* kind) {
    for (const auto& item : named) {
      HALFSTEP_CHECK_USAGE(!item.value().defined() || !is_low_precision(item.value().scalar_type()),
                           where, "a model must come in float32, but ", kind, " ", item.key(),
                           " is in ", dtype_name(item.value().scalar_type()),
                           "; leave the cast to initialize, whatever the level");
    }
  };
  check(model.named_parameters(), "parameter");
  check(model.named_buffers(), "buffer");
}

}  // namespace halfstep::apex::detail
