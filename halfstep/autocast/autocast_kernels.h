#pragma once
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <c10/core/DeviceType.h>

namespace halfstep::detail {

/// Puts a kernel of ours in front of autocast's for each of `ops` (as in OpPolicy::table()) and for
/// each op that LibTorch autocasts on `device_type`, for the life of the process. Inside a region
/// with a policy it follows the policy; outside it calls what was there before. Ops that have one
/// already keep it. Safe from any thread; but the dispatcher's tables are read without a lock, so
/// not while another thread runs these ops in an autocast region.
void register_autocast_kernels(c10::DeviceType device_type, const std::vector<std::string>& ops);

/// Offers copies of weights: what stands in for a float32 `argument` in an op that runs in 16 bits,
/// undefined where nothing does.
using StandIn = at::Tensor (*)(const at::Tensor& argument, c10::DeviceType device_type);

/// Sets whom all kernels ask, and puts kernels in front of the ops that LibTorch runs in 16 bits on
/// `device_type`. With one `stand_in` per process.
void offer_stand_ins(c10::DeviceType device_type, StandIn stand_in);

/// Whom kernels ask; null where nobody was offered.
StandIn offered_stand_ins();

}  // namespace halfstep::detail
