#include "halfstep/optim/step_item.h"

#include "halfstep/core/dtype.h"
#include "halfstep/core/error.h"

#include <ATen/MemoryOverlap.h>

namespace halfstep::optim::detail {

namespace {

bool is_known(c10::ScalarType dtype) {
  return dtype == c10::kFloat || dtype == c10::kDouble || dtype == c10::kBFloat16 ||
         dtype == c10::kHalf;
}

void check_item(const at::Tensor& parameter, const at::Tensor& gradient, const char* where,
                std::size_t group, std::size_t index) {
  HALFSTEP_CHECK_USAGE(
      gradient.layout() == c10::kStrided, where, "gradients must be dense, but parameter ", index,
      " of group ", group, " has one of layout ", gradient.layout(),
      "; make its nn::Embedding with sparse(false), or give it a torch::optim::Adagrad of its own, "
      "which takes sparse gradients");
  for (const auto& tensor : {parameter, gradient})
    HALFSTEP_CHECK_USAGE(is_known(tensor.scalar_type()), where,
                         "parameters and gradients must be float32, float64, bfloat16 or float16, "
                         "but parameter ",
                         index, " of group ", group, " or its gradient is ",
                         dtype_name(tensor.scalar_type()), "; step it with a torch::optim class");
  HALFSTEP_CHECK_USAGE(parameter.device().is_cpu() || parameter.device().is_cuda(), where,
                       "parameters must lie on the CPU or on CUDA, but parameter ", index,
                       " of group ", group, " lies on ", parameter.device(),
                       "; step it with a torch::optim class");
  HALFSTEP_CHECK_USAGE(gradient.device() == parameter.device(), where,
                       "a gradient must lie on its parameter's device ", parameter.device(),
                       ", but that of parameter ", index, " of group ", group, " lies on ",
                       gradient.device(), "; move it there");
  HALFSTEP_CHECK_USAGE(gradient.sizes() == parameter.sizes(), where,
                       "a gradient must have its parameter's shape ", parameter.sizes(),
                       ", but that of parameter ", index, " of group ", group, " has ",
                       gradient.sizes(), "; reshape it");
  HALFSTEP_CHECK_USAGE(
      parameter.is_non_overlapping_and_dense() ||
          at::has_internal_overlap(parameter) != at::MemOverlap::Yes,
      where, "the elements of a parameter must have memory of their own, but parameter ", index,
      " of group ", group, " is an expanded view; optimize the tensor that it expands");
}

}  // namespace

std::vector<StepItem> collect_items(const torch::optim::Optimizer& optimizer, const char* where) {
  std::vector<StepItem> items;
  const auto& groups = optimizer.param_groups();
  for (std::size_t g = 0; g < groups.size(); ++g) {
    const auto& parameters = groups[g].params();
    for (std::size_t p = 0; p < parameters.size(); ++p) {
      const auto& gradient = parameters[p].grad();
      if (!gradient.defined()) continue;
      check_item(parameters[p], gradient, where, g, p);
      items.push_back({parameters[p], gradient, g});
    }
  }
  return items;
}

}  // namespace halfstep::optim::detail
