#include "halfstep/autocast/propagate.h"

#include "halfstep/autocast/cast_cache.h"

#include <array>
#include <utility>

#include <ATen/autocast_mode.h>

namespace halfstep::detail {

namespace {

/// Whether autocast is on and in which dtype, per device type.
auto cast_settings() {
  constexpr auto& types = at::autocast::_AUTOCAST_SUPPORTED_DEVICES;
  std::array<std::pair<bool, c10::ScalarType>, types.size()> settings;
  for (std::size_t i = 0; i < types.size(); ++i) {
    settings[i] = {at::autocast::is_autocast_enabled(types[i]),
                   at::autocast::get_autocast_dtype(types[i])};
  }
  return settings;
}

}  // namespace

PropagatedState::PropagatedState() : cache_enabled_(at::autocast::is_autocast_cache_enabled()) {}

PropagatedStateGuard::PropagatedStateGuard(const PropagatedState& state)
    : previous_cache_enabled_(at::autocast::is_autocast_cache_enabled()) {
  const auto before = cast_settings();
  torch_guard_.emplace(state.torch_state_);
  at::autocast::set_autocast_cache_enabled(state.cache_enabled_);
  const bool outermost = at::autocast::increment_nesting() == 1;
  clears_cache_ = outermost || cast_settings() != before;
  if (clears_cache_) clear_cast_cache();
}

PropagatedStateGuard::~PropagatedStateGuard() {
  at::autocast::decrement_nesting();
  if (clears_cache_) clear_cast_cache();
  at::autocast::set_autocast_cache_enabled(previous_cache_enabled_);
}

}  // namespace halfstep::detail
