#include "halfstep/scaling/grad_scaler_state.h"

#include "halfstep/core/error.h"

#include <string>
#include <vector>

namespace halfstep {

namespace {

constexpr const char* kScale = "scale";
constexpr const char* kGrowthFactor = "growth_factor";
constexpr const char* kBackoffFactor = "backoff_factor";
constexpr const char* kGrowthInterval = "growth_interval";
constexpr const char* kGrowthTracker = "_growth_tracker";
constexpr const char* kHysteresisTracker = "_hysteresis_tracker";

std::string missing_keys(torch::serialize::InputArchive& archive, int& missing) {
  std::string names;
  c10::IValue ignored;
  for (const char* key : {kScale, kGrowthFactor, kBackoffFactor, kGrowthInterval, kGrowthTracker}) {
    if (archive.try_read(key, ignored)) continue;
    names += names.empty() ? key : c10::str(", ", key);
    ++missing;
  }
  return names;
}

double read_double(torch::serialize::InputArchive& archive, const char* key) {
  c10::IValue value;
  archive.read(key, value);
  HALFSTEP_CHECK_ENVIRONMENT(value.isDouble(), "GradScaler::load", "key '", key,
                             "' must be a float, but got ", value.tagKind(),
                             "; load a file that GradScaler::save wrote");
  return value.toDouble();
}

int64_t read_int(torch::serialize::InputArchive& archive, const char* key) {
  c10::IValue value;
  archive.read(key, value);
  HALFSTEP_CHECK_ENVIRONMENT(value.isInt(), "GradScaler::load", "key '", key,
                             "' must be an int, but got ", value.tagKind(),
                             "; load a file that GradScaler::save wrote");
  return value.toInt();
}

}  // namespace

void write_grad_scaler_state(const std::optional<GradScalerState>& state,
                             torch::serialize::OutputArchive& archive) {
  if (!state) return;
  archive.write(kScale, c10::IValue(state->scale));
  archive.write(kGrowthFactor, c10::IValue(state->growth_factor));
  archive.write(kBackoffFactor, c10::IValue(state->backoff_factor));
  archive.write(kGrowthInterval, c10::IValue(state->growth_interval));
  archive.write(kGrowthTracker, c10::IValue(state->growth_tracker));
  if (state->hysteresis_tracker)
    archive.write(kHysteresisTracker, c10::IValue(*state->hysteresis_tracker));
}

std::optional<GradScalerState> read_grad_scaler_state(torch::serialize::InputArchive& archive) {
  int missing = 0;
  const std::string names = missing_keys(archive, missing);
  if (missing == 5) return std::nullopt;
  HALFSTEP_CHECK_ENVIRONMENT(missing == 0, "GradScaler::load",
                             "the archive must have all five keys of a GradScaler, but lacks ",
                             names, "; load a file that GradScaler::save wrote");
  GradScalerState state;
  state.scale = read_double(archive, kScale);
  state.growth_factor = read_double(archive, kGrowthFactor);
  state.backoff_factor = read_double(archive, kBackoffFactor);
  state.growth_interval = read_int(archive, kGrowthInterval);
  state.growth_tracker = read_int(archive, kGrowthTracker);
  c10::IValue ignored;
  if (archive.try_read(kHysteresisTracker, ignored))
    state.hysteresis_tracker = read_int(archive, kHysteresisTracker);
  return state;
}

}  // namespace halfstep
