#include "halfstep/apex/convert_network.h"

#include "halfstep/core/dtype.h"
#include "halfstep/core/error.h"
#include "halfstep/core/module_tensors.h"

#include <torch/nn/modules/batchnorm.h>

namespace halfstep::apex::detail {

namespace {

bool is_batchnorm(const torch::nn::Module& module) {
  return dynamic_cast<const torch::nn::BatchNorm1dImpl*>(&module) != nullptr ||
         dynamic_cast<const torch::nn::BatchNorm2dImpl*>(&module) != nullptr ||
         dynamic_cast<const torch::nn::BatchNorm3dImpl*>(&module) != nullptr;
}

}  // namespace

void convert_network(torch::nn::Module& model, c10::ScalarType dtype, bool keep_batchnorm) {
  halfstep::detail::cast_floating_tensors(model, dtype, [&](const torch::nn::Module& module) {
    return !keep_batchnorm || !is_batchnorm(module);
  });
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
