#pragma once
#include <cstdint>
#include <limits>

namespace halfstep {

/// In what precision a scale is kept and multiplied. It matters to the last bit only, and only for
/// factors that are no powers of two, or beyond float32's range.
enum class ScaleArithmetic {
  float32,  ///< scale and factors are float32: Keras, jmp, OneFlow, Megatron
  mixed,    ///< the scale is float32, the factors are float64: torch
  float64,  ///< both are float64, as a Python float is; what multiplies a loss is rounded to
            ///< float32: MMCV, Apex, DeepSpeed
};

/// Which updates without overflow count towards growth.
enum class GrowthCount {
  since_growth,    ///< those since the scale last grew or an overflow came
  since_overflow,  ///< those since the last overflow: grows at every multiple of the interval. The
                   ///< same as since_growth unless the interval is changed in between
};

/// When hysteresis that overflows used up is refilled.
enum class HysteresisRefill {
  on_growth,      ///< whenever the scale grows: Megatron, DeepSpeed
  on_clean_step,  ///< by any update without overflow: Apex, DeepSpeed's consecutive_hysteresis
};

/// How a loss scale moves. The defaults are torch's. Users set the fields by GradScalerOptions,
/// where each one is explained.
struct ScaleRule {
  bool dynamic = true;
  double growth_factor = 2.0;
  double backoff_factor = 0.5;
  bool backoff_divides = false;
  int64_t growth_interval = 2000;
  GrowthCount growth_count = GrowthCount::since_growth;
  int64_t growth_offset = 0;
  bool grow_only_if_finite = true;
  double min_scale = 0.0;
  double max_scale = std::numeric_limits<double>::infinity();
  int64_t hysteresis = 1;
  HysteresisRefill hysteresis_refill = HysteresisRefill::on_growth;
  ScaleArithmetic arithmetic = ScaleArithmetic::mixed;

  bool operator==(const ScaleRule&) const = default;
};

namespace detail {

/// What a rule remembers from one update to the next.
struct ScaleValues {
  double scale = 65536.0;  ///< a float32 value after the first update, unless kept in float64
  int32_t growth_tracker = 0;
  int32_t hysteresis_tracker = 1;  ///< overflows until the scale backs off, this one included
  int32_t stuck = 0;               ///< overflows in a row that could not lower the scale

  bool operator==(const ScaleValues&) const = default;
};

/// The values before the first update: a scale not above the rule's ceiling, full hysteresis.
ScaleValues start_values(const ScaleRule& rule, double init_scale);

/// One update by the rule, on the host.
void apply_rule(const ScaleRule& rule, ScaleValues& values, bool overflow);

/// True where at::_amp_update_scale_ is this rule.
bool is_torch_rule(const ScaleRule& rule);

/// The count a rule may hold: one at or past the interval would never grow the scale by equality.
int64_t clamp_growth_tracker(const ScaleRule& rule, int64_t tracker);

/// Backing off below it can't help: 1/scale is inf soon, which turns every gradient into NaN.
inline constexpr double kLeastUsefulScale = std::numeric_limits<float>::min();

}  // namespace detail

}  // namespace halfstep
