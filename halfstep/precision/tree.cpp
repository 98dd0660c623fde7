#include "halfstep/precision/tree.h"

#include "halfstep/core/dtype.h"
#include "halfstep/core/error.h"
#include "halfstep/scaling/device_copies.h"

#include <ATen/ops/isfinite.h>
#include <ATen/ops/logical_and.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/where.h>

namespace halfstep::detail {

namespace {
constexpr const char* kSelect = "select_tree";
}

at::Tensor all_finite_of(const std::vector<at::Tensor>& tensors) {
  at::Tensor all;
  for (const auto& tensor : tensors) {
    if (!tensor.defined()) continue;
    const auto finite = at::isfinite(tensor).all();
    all = all.defined() ? at::logical_and(all, to_device(finite, all.device())) : finite;
  }
  return all.defined() ? all : at::scalar_tensor(true, c10::kBool);
}

void check_condition(const at::Tensor& condition) {
  HALFSTEP_CHECK_USAGE(
      condition.defined() && condition.dim() == 0 && condition.scalar_type() == c10::kBool, kSelect,
      "condition must be a 0-dim bool tensor, but got ",
      !condition.defined()
          ? std::string("an undefined one")
          : c10::str(condition.dim(), " dimensions of ", dtype_name(condition.scalar_type())),
      "; all_finite(tree) makes one");
}

at::Tensor select(const at::Tensor& condition, const at::Tensor& a, const at::Tensor& b) {
  check_same_structure(a.defined() == b.defined());
  if (!a.defined()) return a;
  HALFSTEP_CHECK_USAGE(
      a.sizes() == b.sizes() && a.scalar_type() == b.scalar_type() && a.device() == b.device(),
      kSelect,
      "tensors at the same place must have the same shape, dtype and device, but "
      "got ",
      a.toString(), a.sizes(), " and ", b.toString(), b.sizes(),
      "; select between two versions of one tree");
  return at::where(to_device(condition, a.device()), a, b);
}

}  // namespace halfstep::detail
