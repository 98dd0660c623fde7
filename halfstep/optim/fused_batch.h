#pragma once
#include "halfstep/optim/fused_state.h"

#include <array>
#include <optional>
#include <vector>

#include <ATen/core/Tensor.h>

namespace halfstep::optim::detail {

/// What one call of a fused kernel takes: parameters of one group, device and dtype, dense and laid
/// out alike.
struct FusedBatch {
  std::vector<at::Tensor> parameters, gradients, steps;
  std::array<std::vector<at::Tensor>, FusedState::kBuffers> buffers;
  bool is_first_step = false;
  at::Tensor lr;  // where it lies on the device: 0-dim float32, in place of the options' number
  std::optional<at::Tensor> grad_scale, found_inf;  // on the batch's device
};

}  // namespace halfstep::optim::detail
