#include "halfstep/core/error.h"
#include "halfstep/scaling/grad_scaler.h"

#include <algorithm>
#include <cmath>

namespace halfstep {

namespace {
constexpr const char* kLoadState = "GradScaler::load_state";
}

std::optional<GradScalerState> GradScaler::state() const {
  if (!is_enabled()) return std::nullopt;
  const auto now = scale_state_.values();
  GradScalerState state{now.scale, get_growth_factor(), get_backoff_factor(), get_growth_interval(),
                        now.growth_tracker};
  if (options_.hysteresis() > 1) state.hysteresis_tracker = now.hysteresis_tracker;
  return state;
}

void GradScaler::load_state(const std::optional<GradScalerState>& state) {
  if (!is_enabled()) return;
  HALFSTEP_CHECK_USAGE(state.has_value(), kLoadState,
                       "the state must not be empty, but it is; it was probably saved from a "
                       "disabled scaler: go on with a new GradScaler, or disable this one too");
  // A scale kept in float64 may lie beyond float32: the next overflows bring it back.
  if (options_.arithmetic() != ScaleArithmetic::float64 || !std::isfinite(state->scale) ||
      state->scale <= 0)
    detail::check_scale(state->scale, "scale", kLoadState);
  detail::check_growth_factor(state->growth_factor, kLoadState);
  detail::check_backoff_factor(state->backoff_factor, kLoadState);
  detail::check_growth_interval(state->growth_interval, kLoadState);
  HALFSTEP_CHECK_USAGE(state->growth_tracker >= 0, kLoadState,
                       "growth_tracker must be 0 or more, but got ", state->growth_tracker,
                       "; the state is damaged or of another program: start with a new scaler");
  const int64_t hysteresis = state->hysteresis_tracker.value_or(options_.hysteresis());
  HALFSTEP_CHECK_USAGE(hysteresis >= 1, kLoadState,
                       "hysteresis_tracker must be 1 or more, but got ", hysteresis,
                       "; the state is damaged or of another program: start with a new scaler");
  options_.init_scale(state->scale)
      .growth_factor(state->growth_factor)
      .backoff_factor(state->backoff_factor)
      .growth_interval(state->growth_interval);
  detail::ScaleValues values;
  values.scale = state->scale;
  values.growth_tracker =
      static_cast<int32_t>(detail::clamp_growth_tracker(options_.rule(), state->growth_tracker));
  values.hysteresis_tracker = static_cast<int32_t>(std::min(hysteresis, options_.hysteresis()));
  scale_state_.restore(values);
  records_.clear();
  compare_ranks_ = true;
}

void GradScaler::save(torch::serialize::OutputArchive& archive) const {
  write_grad_scaler_state(state(), archive);
}

void GradScaler::load(torch::serialize::InputArchive& archive) {
  load_state(read_grad_scaler_state(archive));
}

torch::serialize::OutputArchive& operator<<(torch::serialize::OutputArchive& archive,
                                            const GradScaler& scaler) {
  scaler.save(archive);
  return archive;
}

torch::serialize::InputArchive& operator>>(torch::serialize::InputArchive& archive,
                                           GradScaler& scaler) {
  scaler.load(archive);
  return archive;
}

}  // namespace halfstep
