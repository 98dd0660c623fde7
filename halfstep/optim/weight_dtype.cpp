#include "halfstep/optim/weight_dtype.h"

#include "halfstep/core/dtype.h"
#include "halfstep/core/error.h"

#include <unordered_set>
#include <vector>

#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/linear.h>

namespace halfstep::optim {

namespace {

template <class... Kinds>
bool is_any_of(const torch::nn::Module& module) {
  return ((dynamic_cast<const Kinds*>(&module) != nullptr) || ...);
}

// nn::Linear of halfstep is one of LibTorch's.
bool is_cast_by_autocast(const torch::nn::Module& module) {
  using namespace torch::nn;
  return is_any_of<LinearImpl, Conv1dImpl, Conv2dImpl, Conv3dImpl, ConvTranspose1dImpl,
                   ConvTranspose2dImpl, ConvTranspose3dImpl>(module);
}

}  // namespace

std::int64_t set_weight_dtype(torch::nn::Module& module, c10::ScalarType dtype) {
  HALFSTEP_CHECK_USAGE(dtype == c10::kFloat || dtype == c10::kDouble || is_low_precision(dtype),
                       "set_weight_dtype",
                       "dtype must be float32, bfloat16, float16 or float64, but got ",
                       dtype_name(dtype), "; pass one of those");
  std::vector<at::Tensor> chosen;
  std::unordered_set<const c10::TensorImpl*> others;
  for (const auto& each : module.modules()) {
    const bool wanted = is_cast_by_autocast(*each);
    for (const auto& parameter : each->parameters(/*recurse=*/false)) {
      if (wanted)
        chosen.push_back(parameter);
      else
        others.insert(parameter.unsafeGetTensorImpl());
    }
  }
  std::int64_t changed = 0;
  for (auto& parameter : chosen) {
    if (others.contains(parameter.unsafeGetTensorImpl()) || parameter.scalar_type() == dtype)
      continue;
    parameter.mutable_grad() = at::Tensor();
    parameter.set_data(parameter.detach().to(dtype));
    ++changed;
  }
  return changed;
}

}  // namespace halfstep::optim
