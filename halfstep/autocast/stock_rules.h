#pragma once
#include "halfstep/autocast/cast_rule.h"

#include <map>
#include <string>

#include <c10/core/DeviceType.h>

namespace halfstep::detail {

/// What LibTorch's own autocast does with an op.
struct StockRule {
  CastRule rule = CastRule::keep;
  /// Whether it does more than to cast (`_cudnn_rnn` packs the weights anew), so that only it will
  /// do for its rule.
  bool only_itself = false;
};

/// The list of the running LibTorch for a device type, by op name ("softmax.int"). Empty for
/// device types without one. Kernels of other libraries for ops of theirs are left out. Read at the
/// first call for a device type, in about ten milliseconds: from the registrations, and from what
/// each registered kernel does with tensors that have a dtype but no memory; no op is run. Safe
/// from any thread, but the first call not while others run ops.
const std::map<std::string, StockRule>& stock_rules(c10::DeviceType device_type);

}  // namespace halfstep::detail
