#pragma once
#include "halfstep/autocast/front_kernel.h"

#include <memory>
#include <optional>

#include <ATen/core/boxing/KernelFunction.h>
#include <c10/core/DeviceType.h>

namespace halfstep::detail {

/// `front` for cat and stack as LibTorch's list promotes them, but called without boxing outside of
/// policy regions: that costs these, whose argument is a list, 0.1 µs more than other ops. Their
/// calls then run LibTorch's own autocast code, from its header. None for other ops.
std::optional<c10::KernelFunction> make_list_kernel(const c10::OperatorHandle& op,
                                                    c10::DeviceType device_type,
                                                    std::unique_ptr<FrontKernel>& front);

}  // namespace halfstep::detail
