#include "halfstep/autocast/weight_alias.h"

#include "halfstep/core/libtorch.h"

#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/functions/utils.h>

namespace halfstep::detail {

namespace {

/// Hands the gradient of a copy to its weight; autograd casts it to the dtype the weight takes.
class ShadowBackward final : public torch::autograd::Node {
 public:
  using torch::autograd::Node::Node;
  torch::autograd::variable_list apply(torch::autograd::variable_list&& gradients) override {
    return std::move(gradients);
  }
  std::string name() const override { return "ShadowBackward"; }
};

bool is_transpose(const at::TensorBase& view, const at::TensorBase& of) {
  return of.dim() == 2 && view.dim() == 2 && view.size(0) == of.size(1) &&
         view.size(1) == of.size(0) && view.stride(0) == of.stride(1) &&
         view.stride(1) == of.stride(0) && view.const_data_ptr() == of.const_data_ptr() &&
         !view.is_neg();
}

bool is_weight(const at::TensorBase& tensor) {
  return tensor.scalar_type() == c10::kFloat && tensor.requires_grad() && tensor.is_leaf() &&
         !tensor.is_inference() && tensor.layout() == c10::kStrided && tensor.has_storage();
}

/// Whether somebody wants to see the gradient of the view itself.
bool is_watched(const at::TensorBase& view) {
  const auto* meta = torch::autograd::impl::get_autograd_meta(view);
  return meta != nullptr &&
         (meta->retains_grad_ || !meta->hooks_.empty() || meta->cpp_hooks_list_ != nullptr);
}

}  // namespace

std::optional<WeightUse> weight_behind(const at::Tensor& argument) {
  if (!argument.defined() || argument.is_inference()) return std::nullopt;
  if (!argument.is_view()) {
    if (!is_weight(argument)) return std::nullopt;
    return WeightUse{argument, false};
  }
  // A view made without gradients and used with them is a leaf of its own.
  if (c10::GradMode::is_enabled() && argument.is_leaf()) return std::nullopt;
  const auto& base = argument._base();
  if (!is_weight(base) || !is_transpose(argument, base) || is_watched(argument))
    return std::nullopt;
  return WeightUse{at::Tensor(base), true};
}

at::Tensor make_alias(const at::Tensor& weight, const at::Tensor& copy) {
  auto alias = copy.detach();
  torch::autograd::set_history(
      alias, make_node<ShadowBackward>(torch::autograd::collect_next_edges(weight)));
  return alias;
}

}  // namespace halfstep::detail
