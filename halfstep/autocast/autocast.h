#pragma once
#include "halfstep/autocast/op_policy.h"

#include <memory>
#include <optional>

#include <c10/core/DeviceType.h>
#include <c10/core/ScalarType.h>

namespace halfstep {

namespace detail {
class PolicyRegionGuard;
}

/// What an autocast region does, in the words of Python's torch.autocast.
///
///   AutocastOptions(torch::kCPU).dtype(torch::kHalf).cache_enabled(false)
class AutocastOptions {
 public:
  /// Converts implicitly, so that `Autocast autocast(torch::kCUDA)` works.
  AutocastOptions(c10::DeviceType device_type) : device_type_(device_type) {}

  /// Device type whose tensors are cast; tensors of other devices are left alone.
  c10::DeviceType device_type() const { return device_type_; }

  /// False: no casts inside, whatever surrounds the region. Default: true.
  AutocastOptions& enabled(bool value) {
    enabled_ = value;
    return *this;
  }
  bool enabled() const { return enabled_; }

  /// The 16-bit type the listed ops run in: float16 or bfloat16. Default: what the surrounding
  /// region uses; outside of any, float16 on CUDA and bfloat16 on CPU. Not used where the region is
  /// disabled.
  AutocastOptions& dtype(std::optional<c10::ScalarType> value) {
    dtype_ = value;
    return *this;
  }
  std::optional<c10::ScalarType> dtype() const { return dtype_; }

  /// Whether the casts of float32 leaf tensors that require a gradient (weights) are kept until the
  /// outermost region ends, so that each weight is cast once. Default: as around the region;
  /// outside of any, true.
  AutocastOptions& cache_enabled(std::optional<bool> value) {
    cache_enabled_ = value;
    return *this;
  }
  std::optional<bool> cache_enabled() const { return cache_enabled_; }

  /// Which ops are cast, and how: this region's and its nested regions' list in place of
  /// LibTorch's, for the device type of this region. Default: as around the region; outside of any,
  /// LibTorch's.
  AutocastOptions& policy(std::optional<OpPolicy> value) {
    policy_ = std::move(value);
    return *this;
  }
  const std::optional<OpPolicy>& policy() const { return policy_; }

 private:
  c10::DeviceType device_type_;
  bool enabled_ = true;
  std::optional<c10::ScalarType> dtype_;
  std::optional<bool> cache_enabled_;
  std::optional<OpPolicy> policy_;
};

/// An autocast region: from construction to destruction each op on LibTorch's lists runs in the
/// 16-bit dtype, in float32, or in the widest of its inputs' dtypes, as with Python's
/// torch.autocast.
///
///   torch::Tensor loss;
///   {
///     halfstep::Autocast autocast(device.type());
///     loss = F::cross_entropy(net->forward(batch.data), batch.target);
///   }
///   loss.backward();
///
/// Regions nest, and a disabled one may stand inside an enabled one. What the outer one computed
/// may be in 16 bits: inside the disabled one, cast it to float32 by hand. What was set before is
/// restored at the end, also when an exception passes. Autocast is a property of the thread:
/// backward() carries it to autograd's threads, and halfstep::propagate to threads of your own.
///
/// LibTorch's cast cache is one for the process and knows no dtype. So an enabled region clears it
/// at both ends, unless the region directly around it is enabled with the same dtype: a float16
/// region inside a bfloat16 one may use the same weights. A cast is not renewed when its weight is
/// changed in place inside the region: step the optimizer outside, or with GradScaler, which clears
/// the cache. Threads that use one weight in different dtypes at the same time need
/// `cache_enabled(false)`.
///
/// A region with an OpPolicy holds for its thread and what that carries along, as autocast itself
/// does: nested regions, autograd's threads, halfstep::propagate. It keeps its casts in a cache of
/// its own, which knows dtypes and sees a weight changed in place where its version tells. The
/// first region with a policy puts kernels before LibTorch's autocast kernels for the life of the
/// process, a later one for ops that have none yet: about 0.1 µs more for each listed op, also in
/// regions without a policy. Enter such a region once before other threads run autocast regions.
///
/// Never syncs with the device. Lives on the thread that made it and ends before what was made
/// before it: a guard that ends elsewhere or out of order would leave autocast on or off for good,
/// so it says so on standard error and ends the program.
///
/// Difference from Python: an enabled region with another dtype than float16 and bfloat16 is an
/// error, where Python warns and goes on without autocast; a disabled region leaves the dtype
/// alone; entering or leaving an enabled region clears the cast cache where the region directly
/// around it is disabled or has another dtype, where Python keeps the casts, also those of the
/// wrong dtype.
class [[nodiscard]] Autocast {
 public:
  /// Enters the region. Where it is to be enabled for CUDA but no CUDA device works, warns once per
  /// process and is disabled, as in Python. Throws UsageError for a device type without autocast
  /// and, where enabled, for a dtype other than float16 and bfloat16; EnvironmentError where the
  /// current CUDA device can't hold the dtype. Nothing has changed then.
  explicit Autocast(const AutocastOptions& options);

  /// Leaves the region.
  ~Autocast();

  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;

  /// Whether this region casts.
  bool enabled() const { return enabled_; }

  /// The 16-bit type it casts to, where enabled.
  c10::ScalarType dtype() const { return dtype_; }

 private:
  bool continues_surroundings() const;

  c10::DeviceType device_type_;
  bool enabled_;
  c10::ScalarType dtype_;
  bool previous_enabled_;
  c10::ScalarType previous_dtype_;
  bool previous_cache_enabled_;
  Autocast* surrounding_;
  std::unique_ptr<detail::PolicyRegionGuard> policy_;
};

}  // namespace halfstep
