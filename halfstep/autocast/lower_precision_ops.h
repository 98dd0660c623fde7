#pragma once
#include <vector>

#include <ATen/core/stack.h>
#include <c10/core/DeviceType.h>

namespace halfstep::detail {

/// The ops ("aten::linear", "aten::conv2d.padding") that autocast on `device_type` runs in 16 bits,
/// as far as the running LibTorch has them. Empty for device types without a list of ours.
std::vector<const char*> lower_precision_ops(c10::DeviceType device_type);

/// Puts `prepare` in front of autocast's kernel of each of these ops, for the life of the process:
/// it sees the op's arguments on top of the stack and may replace them. Costs about 0.1 µs an op.
/// The first call for a device type registers, later ones do nothing. Safe from any thread, but not
/// while another thread runs an autocast region for the first time.
using PrepareArguments = void (*)(c10::DeviceType device_type, c10::IValue* begin,
                                  c10::IValue* end);
void prepare_lower_precision_ops(c10::DeviceType device_type, PrepareArguments prepare);

}  // namespace halfstep::detail
