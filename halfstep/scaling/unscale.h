#pragma once
#include <unordered_map>

#include <ATen/core/Tensor.h>
#include <torch/optim/optimizer.h>

namespace halfstep {

/// 0-dim float32 flags, one on each device that has gradients: 1 where one of them had an inf or
/// NaN, else 0.
using FoundInfs = std::unordered_map<c10::Device, at::Tensor>;

namespace detail {

/// Whether float16 gradients are taken. `refuse`: an unscaled one is too small for float16.
/// `allow`: where the user wants it nevertheless, and for a check alone, with a factor of 1.
enum class Float16Gradients { refuse, allow };

/// Multiplies every gradient of `optimizer` by `inv_scale` (0-dim float32) in place, once even
/// where a parameter is listed twice, and says per device whether any was inf or NaN. Float16
/// sparse gradients are coalesced and replaced first. Does not sync. Empty where there is no
/// gradient. Throws UsageError, before any gradient is changed, for one it can't take; `where`
/// opens the message.
FoundInfs unscale_gradients(torch::optim::Optimizer& optimizer, const at::Tensor& inv_scale,
                            Float16Gradients float16, const char* where);

/// Checks and multiplies `tensors` through float32 copies: for bfloat16 on CUDA, for which LibTorch
/// has no kernel. Same bits as a kernel that computes in float32.
void unscale_through_float(at::TensorList tensors, at::Tensor& found_inf,
                           const at::Tensor& inv_scale);

}  // namespace detail

}  // namespace halfstep
