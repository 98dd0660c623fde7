#include "halfstep/scaling/unscale.h"

#include "halfstep/core/dtype.h"
#include "halfstep/core/error.h"
#include "halfstep/scaling/device_copies.h"

#include <unordered_set>
#include <vector>

#include <ATen/ops/_amp_foreach_non_finite_check_and_unscale.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>

namespace halfstep::detail {

namespace {

/// Gradients one kernel call can take: one device, one dtype.
struct Batch {
  c10::Device device;
  c10::ScalarType dtype;
  std::vector<at::Tensor> gradients;
};

void add(std::vector<Batch>& batches, const at::Tensor& gradient) {
  for (auto& batch : batches) {
    if (batch.device != gradient.device() || batch.dtype != gradient.scalar_type()) continue;
    batch.gradients.push_back(gradient);
    return;
  }
  batches.push_back({gradient.device(), gradient.scalar_type(), {gradient}});
}

void check_gradient(const at::Tensor& gradient, Float16Gradients float16, const char* where,
                    std::size_t group, std::size_t parameter) {
  const auto dtype = gradient.scalar_type();
  HALFSTEP_CHECK_USAGE(
      dtype != c10::kHalf || float16 == Float16Gradients::allow, where,
      "gradients must be float32, float64 or bfloat16 to be unscaled, but parameter ", parameter,
      " of group ", group,
      " has a float16 gradient, which can't hold what unscaling makes small; keep the parameters "
      "in float32 and let Autocast make the float16 copies, or leave unscale_ out: halfstep's "
      "fused optimizers unscale, and clip with clip_norm, as they step; or accept the loss by "
      "GradScalerOptions::float16_gradients(true)");
  HALFSTEP_CHECK_USAGE(dtype == c10::kHalf || dtype == c10::kBFloat16 || dtype == c10::kFloat ||
                           dtype == c10::kDouble,
                       where, "gradients must be floating-point, but parameter ", parameter,
                       " of group ", group, " has a gradient of type ", dtype_name(dtype),
                       "; give it an optimizer of its own that is stepped without the scaler");
  HALFSTEP_CHECK_USAGE(gradient.layout() == c10::kStrided || gradient.layout() == c10::kSparse,
                       where, "gradients must be dense or COO sparse, but parameter ", parameter,
                       " of group ", group, " has a gradient of layout ", gradient.layout(),
                       "; convert it before this call");
}

std::vector<Batch> collect(torch::optim::Optimizer& optimizer, Float16Gradients float16,
                           const char* where) {
  std::vector<Batch> batches;
  std::unordered_set<const c10::TensorImpl*> seen;
  for (std::size_t g = 0; g < optimizer.param_groups().size(); ++g) {
    auto& parameters = optimizer.param_groups()[g].params();
    for (std::size_t p = 0; p < parameters.size(); ++p) {
      if (!parameters[p].defined() || !parameters[p].grad().defined()) continue;
      at::Tensor& gradient = parameters[p].mutable_grad();
      check_gradient(gradient, float16, where, g, p);
      // Repeated indices add up: in float16 only the sum shows the overflow.
      if (gradient.is_sparse() && gradient.scalar_type() == c10::kHalf)
        gradient = gradient.coalesce();
      if (!seen.insert(gradient.unsafeGetTensorImpl()).second) continue;
      add(batches, gradient.is_sparse() ? gradient._values() : gradient);
    }
  }
  return batches;
}

}  // namespace

void unscale_through_float(at::TensorList tensors, at::Tensor& found_inf,
                           const at::Tensor& inv_scale) {
  std::vector<at::Tensor> wide;
  wide.reserve(tensors.size());
  for (const auto& tensor : tensors) wide.push_back(tensor.to(c10::kFloat));
  at::_amp_foreach_non_finite_check_and_unscale_(wide, found_inf, inv_scale);
  for (std::size_t i = 0; i < tensors.size(); ++i) tensors[i].copy_(wide[i]);
}

FoundInfs unscale_gradients(torch::optim::Optimizer& optimizer, const at::Tensor& inv_scale,
                            Float16Gradients float16, const char* where) {
  const c10::NoGradGuard no_grad;
  const auto batches = collect(optimizer, float16, where);
  DeviceCopies found_infs(at::zeros({}, inv_scale.options()));
  DeviceCopies inv_scales(inv_scale);
  for (const auto& batch : batches) {
    at::Tensor& found_inf = found_infs.get(batch.device);
    const at::Tensor& factor = inv_scales.get(batch.device);
    if (batch.device.is_cuda() && batch.dtype == c10::kBFloat16) {
      unscale_through_float(batch.gradients, found_inf, factor);
    } else {
      at::_amp_foreach_non_finite_check_and_unscale_(batch.gradients, found_inf, factor);
    }
  }
  return found_infs.made();
}

}  // namespace halfstep::detail
