#include "halfstep/autocast/region_cast_cache.h"

#include "halfstep/autocast/cast_cache.h"
#include "halfstep/autocast/weight_alias.h"

#include <ATen/CachedTensorUtils.h>
#include <ATen/autocast_mode.h>
#include <c10/core/AutogradState.h>
#include <c10/core/GradMode.h>
#include <c10/core/InferenceMode.h>

namespace halfstep::detail {

at::Tensor RegionCastCache::cast(const at::Tensor& argument, c10::ScalarType dtype) {
  if (!at::autocast::is_autocast_cache_enabled() || c10::InferenceMode::is_enabled())
    return argument.to(dtype);
  const auto use = weight_behind(argument);
  if (!use || at::caching::is_cached_tensor(use->weight)) return argument.to(dtype);
  at::Tensor cast;
  {
    const std::lock_guard lock(mutex_);
    if (closed_) return argument.to(dtype);
    cast = cast_of_weight(use->weight, dtype);
  }
  if (!use->transposed) return cast;
  // Stock autocast casts a view at each use, so the gradients of its uses are added in float32.
  if (!c10::GradMode::is_enabled()) return cast.detach().t();
  return make_alias(use->weight, cast).t();
}

at::Tensor RegionCastCache::cast_of_weight(const at::Tensor& weight, c10::ScalarType dtype) {
  if (const auto epoch = cast_cache_epoch(); epoch != epoch_) {
    entries_.clear();
    epoch_ = epoch;
  }
  const auto key = std::pair(weight.unsafeGetTensorImpl(), dtype);
  const auto found = entries_.find(key);
  if (found != entries_.end()) {
    if (found->second.mark.is_of(weight)) return found->second.cast;
    entries_.erase(found);
  }
  // With a gradient even where the first use needs none: a later one may.
  const at::AutoGradMode grad_mode(true);
  auto cast = weight.to(dtype);
  // Below autograd, inside another op's kernel, a cast has no way back to its weight.
  if (cast.requires_grad())
    entries_.emplace(key, Entry{c10::weak_intrusive_ptr<c10::TensorImpl>(weight.getIntrusivePtr()),
                                WeightMark(weight), cast});
  return cast;
}

void RegionCastCache::close() {
  const std::lock_guard lock(mutex_);
  entries_.clear();
  closed_ = true;
}

size_t RegionCastCache::size() const {
  const std::lock_guard lock(mutex_);
  return entries_.size();
}

}  // namespace halfstep::detail
