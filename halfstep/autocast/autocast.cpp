#include "halfstep/autocast/autocast.h"

#include "halfstep/autocast/cast_cache.h"
#include "halfstep/autocast/policy_region.h"
#include "halfstep/core/cuda_info.h"
#include "halfstep/core/device.h"
#include "halfstep/core/dtype.h"
#include "halfstep/core/error.h"

#include <ATen/autocast_mode.h>

namespace halfstep {

namespace {

thread_local Autocast* innermost = nullptr;

std::string device_types_with_autocast() {
  std::string names;
  for (const auto type : at::autocast::_AUTOCAST_SUPPORTED_DEVICES)
    names += (names.empty() ? "" : ", ") + c10::DeviceTypeName(type, /*lower_case=*/true);
  return names;
}

void check_device_type(c10::DeviceType device_type) {
  HALFSTEP_CHECK_USAGE(at::autocast::is_autocast_available(device_type), "Autocast",
                       "device_type must be one of ", device_types_with_autocast(), ", but got ",
                       c10::DeviceTypeName(device_type, true),
                       "; use the type of the device the model runs on");
}

// Whether the region is enabled in the end; throws for a dtype it can't cast to.
bool check_enabled(c10::DeviceType device_type, c10::ScalarType dtype) {
  HALFSTEP_CHECK_USAGE(is_low_precision(dtype), "Autocast",
                       "dtype must be float16 or bfloat16, but got ", dtype_name(dtype),
                       "; for full precision use enabled(false)");
  if (device_type != c10::kCUDA) return true;
  if (!cuda_works()) {
    TORCH_WARN_ONCE(
        "[Autocast] device_type cuda needs a working CUDA device, but none works here; "
        "autocast is disabled: use the type of the device the model runs on");
    return false;
  }
  HALFSTEP_CHECK_ENVIRONMENT(dtype == c10::kHalf || detail::current_cuda_device_holds_bfloat16(),
                             "Autocast", "dtype must be one the CUDA device supports, but got ",
                             dtype_name(dtype), "; use float16");
  return true;
}

}  // namespace

Autocast::Autocast(const AutocastOptions& options)
    : device_type_(options.device_type()), enabled_(options.enabled()) {
  check_device_type(device_type_);
  previous_enabled_ = at::autocast::is_autocast_enabled(device_type_);
  previous_dtype_ = at::autocast::get_autocast_dtype(device_type_);
  previous_cache_enabled_ = at::autocast::is_autocast_cache_enabled();
  surrounding_ = innermost;
  dtype_ = enabled_ ? options.dtype().value_or(previous_dtype_) : previous_dtype_;
  enabled_ = enabled_ && check_enabled(device_type_, dtype_);
  if (!enabled_) dtype_ = previous_dtype_;

  if (options.policy())
    policy_ = std::make_unique<detail::PolicyRegionGuard>(device_type_, *options.policy());
  if (!continues_surroundings()) detail::clear_cast_cache();
  at::autocast::set_autocast_enabled(device_type_, enabled_);
  at::autocast::set_autocast_dtype(device_type_, dtype_);
  at::autocast::set_autocast_cache_enabled(
      options.cache_enabled().value_or(previous_cache_enabled_));
  at::autocast::increment_nesting();
  innermost = this;
}

Autocast::~Autocast() {
  if (innermost != this)
    detail::die(
        "Autocast",
        "a region must end on the thread that began it and before the regions around it, but "
        "this one did not; keep the guard on the stack");
  innermost = surrounding_;
  policy_.reset();
  const bool outermost = at::autocast::decrement_nesting() == 0;
  if (outermost || !continues_surroundings()) detail::clear_cast_cache();
  at::autocast::set_autocast_enabled(device_type_, previous_enabled_);
  at::autocast::set_autocast_dtype(device_type_, previous_dtype_);
  at::autocast::set_autocast_cache_enabled(previous_cache_enabled_);
}

// A disabled region makes no casts, so the surroundings' stay right across it.
bool Autocast::continues_surroundings() const {
  return !enabled_ || (previous_enabled_ && previous_dtype_ == dtype_);
}

}  // namespace halfstep
