#pragma once
#include "halfstep/autocast/compiled_policy.h"
#include "halfstep/autocast/op_policy.h"
#include "halfstep/autocast/region_cast_cache.h"
#include "halfstep/core/debug_info.h"

#include <memory>

#include <c10/util/ThreadLocalDebugInfo.h>

namespace halfstep::detail {

/// An autocast region with a policy of its own. Travels in c10::ThreadLocalDebugInfo, which
/// autograd's threads, halfstep::propagate and at::wrapPropagateTLSState carry along.
class PolicyRegion final : public c10::DebugInfoBase,
                           public std::enable_shared_from_this<PolicyRegion> {
 public:
  PolicyRegion(c10::DeviceType device_type, const OpPolicy& policy);
  /// One without a policy: LibTorch's list holds in it, whatever surrounds it.
  explicit PolicyRegion(c10::DeviceType device_type);

  /// The innermost region with a policy for this device type that the calling thread is in, or
  /// null; null also inside of one without.
  static PolicyRegion* current(c10::DeviceType device_type);

  const CompiledPolicy& policy() const { return *policy_; }
  /// What `policy` was compiled from.
  const OpPolicy& op_policy() const { return op_policy_; }
  RegionCastCache& cache() { return cache_; }

 private:
  c10::DeviceType device_type_;
  OpPolicy op_policy_;
  std::shared_ptr<const CompiledPolicy> policy_;
  std::shared_ptr<PolicyRegion> surrounding_;
  RegionCastCache cache_;
};

/// Puts a thread into a policy region and out again. The first use of a policy registers kernels
/// for its ops.
class PolicyRegionGuard {
 public:
  PolicyRegionGuard(c10::DeviceType device_type, const OpPolicy& policy);
  ~PolicyRegionGuard();
  PolicyRegionGuard(const PolicyRegionGuard&) = delete;
  PolicyRegionGuard& operator=(const PolicyRegionGuard&) = delete;

 private:
  std::shared_ptr<PolicyRegion> region_;
  DebugInfoEntry entry_;
};

/// Puts a thread into a region again that was left, or is another thread's: its policy holds, its
/// cache keeps nothing more once it was left. Nothing for null.
class ResumedPolicyRegion {
 public:
  explicit ResumedPolicyRegion(std::shared_ptr<PolicyRegion> region);

 private:
  DebugInfoEntry entry_;
};

}  // namespace halfstep::detail
