#pragma once
#include <ATen/core/dispatch/Dispatcher.h>

namespace halfstep::detail {

/// Batch norm in training of bfloat16 images on the CPU that lie channels-last, with what stands
/// beside it, in fewer passes over memory: the steps and roundings of LibTorch's separate kernels,
/// so the bits too, for the same number of threads. Channels are a multiple of kChannelMultiple;
/// weight, bias, statistics and their gradients are float32 and contiguous; all images have one
/// size and lie alike.

/// halfstep::batch_norm(Tensor input, Tensor weight, Tensor bias, Tensor(a!) running_mean,
/// Tensor(b!) running_var, float momentum, float eps, Tensor? other, bool relu)
/// -> (Tensor output, Tensor save_mean, Tensor save_invstd): native_batch_norm, then add with
/// `other`, then relu.
c10::OperatorHandle batch_norm_op();

/// halfstep::batch_norm_backward(Tensor grad, Tensor? other_grad, Tensor? output, Tensor input,
/// Tensor weight, Tensor save_mean, Tensor save_invstd, bool keep_grad)
/// -> (Tensor grad_input, Tensor grad_weight, Tensor grad_bias, Tensor masked_grad): add of the two
/// gradients, threshold_backward by `output`, what a relu gave, then native_batch_norm_backward.
/// `masked_grad` is what threshold_backward gives, undefined without `keep_grad`.
c10::OperatorHandle batch_norm_backward_op();

/// Whether both have the bits of LibTorch's kernels on this machine: tried once.
bool batch_norm_has_same_bits();

}  // namespace halfstep::detail
