#pragma once
#include <vector>

#include <ATen/core/Tensor.h>
#include <torch/optim/optimizer.h>

namespace halfstep::optim {

/// Scales all gradients of `parameters` together so that their norm (the root of the sum of all
/// squares; with `norm_type` p the p-norm, with infinity the largest element) is at most
/// `max_norm`, and returns the norm they had: 0-dim float32, on the CPU where
/// all gradients lie there, else on the first GPU's. Parameters without gradient don't count. Does
/// not sync, unless gradients lie on both, or `error_if_nonfinite` is set: that reads the norm and
/// throws UsageError, before anything is changed, where it is inf or NaN.
///
/// As Python's torch.nn.utils.clip_grad_norm_: the factor is `max_norm / (norm + 1e-6)`, at most 1.
/// Under a GradScaler call it between `unscale_` and `step`; the fused optimizers' own option
/// `clip_norm` costs no pass of its own. Difference from LibTorch's, which returns a double and so
/// always syncs; Differences from Python: squares are summed in float64 on the CPU, so large finite
/// gradients don't overflow, and `norm_type` is above 0.
at::Tensor clip_grad_norm_(const std::vector<at::Tensor>& parameters, double max_norm,
                           bool error_if_nonfinite = false, double norm_type = 2.0);

/// The same for all parameters of an optimizer.
at::Tensor clip_grad_norm_(const torch::optim::Optimizer& optimizer, double max_norm,
                           bool error_if_nonfinite = false, double norm_type = 2.0);

/// Limits every element of the gradients to [-max_value, max_value]; NaN stays. Does not sync.
void clip_grad_value_(const std::vector<at::Tensor>& parameters, double max_value);
void clip_grad_value_(const torch::optim::Optimizer& optimizer, double max_value);

namespace detail {

/// clip_grad_value_ for gradients of one device and dtype.
void clamp_(at::TensorList tensors, double limit);

/// The norm of all `gradients` together, as above but in float64; 0 for none.
at::Tensor total_norm(const std::vector<at::Tensor>& gradients);
at::Tensor total_p_norm(const std::vector<at::Tensor>& gradients, double norm_type);

/// `max_norm / (norm + 1e-6)`, at most 1; NaN for a NaN.
double clip_factor(double norm, double max_norm);
at::Tensor clip_factor(const at::Tensor& norm, double max_norm);

void check_limit(double value, const char* name, const char* where);
void check_norm_type(double value, const char* where);

}  // namespace detail

}  // namespace halfstep::optim
