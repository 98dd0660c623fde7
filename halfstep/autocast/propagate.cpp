#include "halfstep/autocast/propagate.h"

#include "halfstep/autocast/cast_cache.h"

#include <ATen/autocast_mode.h>

namespace halfstep::detail {

PropagatedState::PropagatedState() : cache_enabled_(at::autocast::is_autocast_cache_enabled()) {}

PropagatedStateGuard::PropagatedStateGuard(const PropagatedState& state)
    : torch_guard_(state.torch_state_),
      previous_cache_enabled_(at::autocast::is_autocast_cache_enabled()) {
  at::autocast::set_autocast_cache_enabled(state.cache_enabled_);
  at::autocast::increment_nesting();
}

PropagatedStateGuard::~PropagatedStateGuard() {
  if (at::autocast::decrement_nesting() == 0) clear_cast_cache();
  at::autocast::set_autocast_cache_enabled(previous_cache_enabled_);
}

}  // namespace halfstep::detail
