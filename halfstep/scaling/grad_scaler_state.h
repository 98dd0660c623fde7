#pragma once
#include <cstdint>
#include <optional>

#include <torch/serialize/archive.h>

namespace halfstep {

/// What a GradScaler must remember over a restart: the five entries of Python's `state_dict()`, and
/// one more where the rule has hysteresis. A disabled scaler has no state (std::nullopt where
/// Python has an empty dict).
struct GradScalerState {
  double scale = 65536.0;          ///< key "scale"
  double growth_factor = 2.0;      ///< key "growth_factor"
  double backoff_factor = 0.5;     ///< key "backoff_factor"
  int64_t growth_interval = 2000;  ///< key "growth_interval"
  int64_t growth_tracker = 0;      ///< key "_growth_tracker": see GradScaler::growth_tracker
  /// Key "_hysteresis_tracker": see GradScaler::hysteresis_tracker. Empty without hysteresis, and
  /// in files of other programs: full then.
  std::optional<int64_t> hysteresis_tracker = std::nullopt;

  bool operator==(const GradScalerState&) const = default;
};

/// Writes the keys into `archive`, or nothing for std::nullopt.
void write_grad_scaler_state(const std::optional<GradScalerState>& state,
                             torch::serialize::OutputArchive& archive);

/// Reads the keys; std::nullopt where `archive` has none of the five. Throws EnvironmentError where
/// some of them are missing or have another type. The values are checked by
/// `GradScaler::load_state`.
std::optional<GradScalerState> read_grad_scaler_state(torch::serialize::InputArchive& archive);

}  // namespace halfstep
