#pragma once
#include "halfstep/core/nested.h"

#include <vector>

#include <ATen/core/Tensor.h>

namespace halfstep {

namespace detail {
at::Tensor all_finite_of(const std::vector<at::Tensor>& tensors);
at::Tensor select(const at::Tensor& condition, const at::Tensor& a, const at::Tensor& b);
void check_condition(const at::Tensor& condition);
}  // namespace detail

/// Whether no tensor of `tree` has an inf or NaN: 0-dim bool, on the device of the first tensor; on
/// the CPU and true where there is none. Does not sync, unless tensors lie on a GPU and the first
/// on the CPU. jmp's function; see DtypePolicy for trees. Undefined tensors (gradients that
/// backward did not reach) don't count.
template <class Tree>
at::Tensor all_finite(const Tree& tree) {
  std::vector<at::Tensor> tensors;
  detail::visit_tensors([&](const at::Tensor& tensor) { tensors.push_back(tensor); }, tree);
  return detail::all_finite_of(tensors);
}

/// `a` where `condition`, a 0-dim bool tensor, is true, else `b`: tensor by tensor, so that the
/// host need not know. The way to leave out a step without a sync:
///
///   parameters = halfstep::select_tree(halfstep::all_finite(gradients), stepped, parameters);
///
/// The trees have the same type and structure, and tensors at the same place the same shape, dtype
/// and device; leaves other than tensors are a's. `condition` may be on another device;
/// to bring it from a GPU to the CPU syncs. Autograd records it. Throws UsageError where the trees
/// or the condition are not so.
template <class Tree>
auto select_tree(const at::Tensor& condition, const Tree& a, const Tree& b) {
  detail::check_condition(condition);
  auto select_one = [&](const at::Tensor& one, const at::Tensor& other) {
    return detail::select(condition, one, other);
  };
  return detail::map_tensors(select_one, a, b);
}

}  // namespace halfstep
