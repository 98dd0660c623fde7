#include "halfstep/optim/clip_grad.h"

#include "halfstep/core/error.h"
#include "halfstep/optim/gradient_kernels.h"
#include "halfstep/optim/span_of.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <ATen/TensorOperators.h>
#include <ATen/ops/_foreach_clamp_max.h>
#include <ATen/ops/_foreach_clamp_min.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/stack.h>
#include <c10/core/GradMode.h>

namespace halfstep::optim {

namespace {

/// Tensors that one foreach op can take.
std::vector<std::vector<at::Tensor>> by_device_and_dtype(const std::vector<at::Tensor>& tensors) {
  std::vector<std::vector<at::Tensor>> groups;
  for (const auto& tensor : tensors) {
    const auto fits = [&](const auto& group) {
      return group.front().device() == tensor.device() &&
             group.front().scalar_type() == tensor.scalar_type();
    };
    const auto place = std::find_if(groups.begin(), groups.end(), fits);
    if (place == groups.end())
      groups.push_back({tensor});
    else
      place->push_back(tensor);
  }
  return groups;
}

void multiply_(const std::vector<at::Tensor>& group, double factor) {
  const auto& first = group.front();
  if (first.scalar_type() != c10::kHalf || !first.is_cpu()) return at::_foreach_mul_(group, factor);
  // ATen would round the factor to float16, where a small one is 0.
  for (const auto& gradient : group) gradient.copy_(gradient.to(c10::kFloat).mul_(factor));
}

std::vector<at::Tensor> gradients_of(const std::vector<at::Tensor>& parameters, const char* where) {
  std::vector<at::Tensor> gradients;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    if (!parameters[i].defined() || !parameters[i].grad().defined()) continue;
    const auto& gradient = parameters[i].grad();
    HALFSTEP_CHECK_USAGE(gradient.layout() == c10::kStrided, where,
                         "gradients must be dense, but that of parameter ", i, " has layout ",
                         gradient.layout(), "; make its nn::Embedding with sparse(false)");
    gradients.push_back(gradient);
  }
  return gradients;
}

std::vector<at::Tensor> parameters_of(const torch::optim::Optimizer& optimizer) {
  std::vector<at::Tensor> parameters;
  for (const auto& group : optimizer.param_groups())
    parameters.insert(parameters.end(), group.params().begin(), group.params().end());
  return parameters;
}

}  // namespace

namespace detail {

void check_limit(double value, const char* name, const char* where) {
  HALFSTEP_CHECK_USAGE(value >= 0, where, name, " must be at least 0, but got ", value,
                       "; 1.0 is usual");
}

void check_norm_type(double value, const char* where) {
  HALFSTEP_CHECK_USAGE(value > 0, where, "norm_type must be above 0, but got ", value,
                       "; 2 is usual, infinity takes the largest element");
}

double clip_factor(double norm, double max_norm) {
  const double factor = max_norm / (norm + 1e-6);
  return factor >= 1 ? 1 : factor;
}

at::Tensor clip_factor(const at::Tensor& norm, double max_norm) {
  return ((norm + 1e-6).reciprocal() * max_norm).clamp_max(1.0);
}

void clamp_(at::TensorList tensors, double limit) {
  // ATen refuses a limit that the dtype does not have.
  const auto largest = [](c10::ScalarType dtype) -> double {
    if (dtype == c10::kHalf) return std::numeric_limits<c10::Half>::max();
    if (dtype == c10::kBFloat16) return std::numeric_limits<c10::BFloat16>::max();
    return dtype == c10::kDouble ? std::numeric_limits<double>::max()
                                 : std::numeric_limits<float>::max();
  }(tensors.front().scalar_type());
  // An inf is limited too.
  at::_foreach_clamp_min_(tensors, -std::min(limit, largest));
  at::_foreach_clamp_max_(tensors, std::min(limit, largest));
}

at::Tensor total_norm(const std::vector<at::Tensor>& gradients) {
  const c10::NoGradGuard no_grad;
  std::vector<KernelSpan> spans;
  std::vector<at::Tensor> others, dense;
  for (const auto& gradient : gradients) {
    if (!gradient.device().is_cpu() || !element_of(gradient.scalar_type())) {
      others.push_back(gradient);
      continue;
    }
    // An expanded gradient counts each of its elements.
    dense.push_back(gradient.is_non_overlapping_and_dense() ? gradient : gradient.contiguous());
    KernelSpan span;
    set_gradient(span, dense.back());
    spans.push_back(span);
  }
  const double squares = sum_of_squares(spans);
  if (others.empty()) return at::scalar_tensor(std::sqrt(squares), at::TensorOptions(c10::kDouble));
  at::Tensor sum;
  auto groups = by_device_and_dtype(others);
  std::stable_partition(groups.begin(), groups.end(),
                        [](const auto& group) { return !group.front().is_cpu(); });
  for (const auto& group : groups) {
    // Low precision would overflow: the norm of float16 gradients need not be a float16.
    const auto dtype = group.front().scalar_type() == c10::kDouble ? c10::kDouble : c10::kFloat;
    const auto part = at::stack(at::_foreach_norm(group, 2, dtype)).to(c10::kDouble).square().sum();
    sum = sum.defined() ? sum + part.to(sum.device()) : part;
  }
  return (sum + squares).sqrt();
}

at::Tensor total_p_norm(const std::vector<at::Tensor>& gradients, double norm_type) {
  const c10::NoGradGuard no_grad;
  at::Tensor norms;
  auto groups = by_device_and_dtype(gradients);
  std::stable_partition(groups.begin(), groups.end(),
                        [](const auto& group) { return !group.front().is_cpu(); });
  for (const auto& group : groups) {
    const auto dtype = group.front().scalar_type() == c10::kDouble ? c10::kDouble : c10::kFloat;
    const auto part = at::stack(at::_foreach_norm(group, norm_type, dtype)).to(c10::kDouble);
    norms = norms.defined() ? at::cat({norms, part.to(norms.device())}) : part;
  }
  if (!norms.defined()) return at::scalar_tensor(0.0, at::TensorOptions(c10::kDouble));
  return at::linalg_vector_norm(norms, norm_type);
}

}  // namespace detail

at::Tensor clip_grad_norm_(const std::vector<at::Tensor>& parameters, double max_norm,
                           bool error_if_nonfinite, double norm_type) {
  constexpr const char* where = "clip_grad_norm_";
  detail::check_limit(max_norm, "max_norm", where);
  detail::check_norm_type(norm_type, where);
  const c10::NoGradGuard no_grad;
  const auto gradients = gradients_of(parameters, where);
  const auto norm =
      norm_type == 2 ? detail::total_norm(gradients) : detail::total_p_norm(gradients, norm_type);
  HALFSTEP_CHECK_USAGE(!error_if_nonfinite || std::isfinite(norm.item<double>()), where,
                       "the norm of the gradients must be finite, but is ", norm.item<double>(),
                       "; skip this step (a GradScaler does), or set error_if_nonfinite to false");
  if (norm.device().is_cpu()) {
    const double factor = detail::clip_factor(norm.const_data_ptr<double>()[0], max_norm);
    if (factor == 1) return norm.to(c10::kFloat);
    for (const auto& group : by_device_and_dtype(gradients)) multiply_(group, factor);
    return norm.to(c10::kFloat);
  }
  const auto factor = detail::clip_factor(norm, max_norm).to(c10::kFloat);
  for (const auto& group : by_device_and_dtype(gradients))
    at::_foreach_mul_(group, factor.to(group.front().device()));
  return norm.to(c10::kFloat);
}

at::Tensor clip_grad_norm_(const torch::optim::Optimizer& optimizer, double max_norm,
                           bool error_if_nonfinite, double norm_type) {
  return clip_grad_norm_(parameters_of(optimizer), max_norm, error_if_nonfinite, norm_type);
}

void clip_grad_value_(const std::vector<at::Tensor>& parameters, double max_value) {
  constexpr const char* where = "clip_grad_value_";
  detail::check_limit(max_value, "max_value", where);
  const c10::NoGradGuard no_grad;
  for (const auto& group : by_device_and_dtype(gradients_of(parameters, where)))
    detail::clamp_(group, max_value);
}

void clip_grad_value_(const torch::optim::Optimizer& optimizer, double max_value) {
  clip_grad_value_(parameters_of(optimizer), max_value);
}

}  // namespace halfstep::optim
