#include "halfstep/scaling/scale_rule.h"

#include <algorithm>
#include <cmath>

namespace halfstep::detail {

namespace {

/// Factors are of type Factor; the result is kept as Stored.
template <class Factor, class Stored>
Stored lowered(const ScaleRule& rule, double scale) {
  const auto from = static_cast<Factor>(scale);
  const Factor lower = rule.backoff_divides ? from / static_cast<Factor>(rule.growth_factor)
                                            : from * static_cast<Factor>(rule.backoff_factor);
  return static_cast<Stored>(std::max(lower, static_cast<Factor>(rule.min_scale)));
}

template <class Factor, class Stored>
Stored raised(const ScaleRule& rule, double scale) {
  const auto higher = static_cast<Factor>(scale) * static_cast<Factor>(rule.growth_factor);
  return static_cast<Stored>(std::min(higher, static_cast<Factor>(rule.max_scale)));
}

double lowered(const ScaleRule& rule, double scale) {
  switch (rule.arithmetic) {
    case ScaleArithmetic::float32:
      return lowered<float, float>(rule, scale);
    case ScaleArithmetic::mixed:
      return lowered<double, float>(rule, scale);
    case ScaleArithmetic::float64:
      break;
  }
  return lowered<double, double>(rule, scale);
}

double raised(const ScaleRule& rule, double scale) {
  switch (rule.arithmetic) {
    case ScaleArithmetic::float32:
      return raised<float, float>(rule, scale);
    case ScaleArithmetic::mixed:
      return raised<double, float>(rule, scale);
    case ScaleArithmetic::float64:
      break;
  }
  return raised<double, double>(rule, scale);
}

void after_overflow(const ScaleRule& rule, ScaleValues& values) {
  values.growth_tracker = 0;
  if (values.hysteresis_tracker > 1) {
    --values.hysteresis_tracker;
    return;
  }
  const double lower = lowered(rule, values.scale);
  const bool is_stuck = lower == values.scale || lower < kLeastUsefulScale;
  values.stuck = is_stuck ? values.stuck + 1 : 0;
  values.scale = lower;
}

void after_clean_step(const ScaleRule& rule, ScaleValues& values) {
  const auto full = static_cast<int32_t>(rule.hysteresis);
  values.stuck = 0;
  if (rule.hysteresis_refill == HysteresisRefill::on_clean_step) values.hysteresis_tracker = full;
  ++values.growth_tracker;
  const int64_t counted = values.growth_tracker - rule.growth_offset;
  const bool grows = rule.growth_count == GrowthCount::since_overflow
                         ? counted > 0 && counted % rule.growth_interval == 0
                         : counted >= rule.growth_interval;
  if (!grows) return;
  const double higher = raised(rule, values.scale);
  if (std::isfinite(higher) || !rule.grow_only_if_finite) values.scale = higher;
  if (rule.growth_count == GrowthCount::since_growth)
    values.growth_tracker = static_cast<int32_t>(rule.growth_offset);
  if (rule.hysteresis_refill == HysteresisRefill::on_growth) values.hysteresis_tracker = full;
}

}  // namespace

ScaleValues start_values(const ScaleRule& rule, double init_scale) {
  ScaleValues values;
  values.scale = std::min(init_scale, rule.max_scale);
  values.hysteresis_tracker = static_cast<int32_t>(rule.hysteresis);
  return values;
}

void apply_rule(const ScaleRule& rule, ScaleValues& values, bool overflow) {
  if (!rule.dynamic) {
    values.stuck = overflow ? values.stuck + 1 : 0;
  } else if (overflow) {
    after_overflow(rule, values);
  } else {
    after_clean_step(rule, values);
  }
}

bool is_torch_rule(const ScaleRule& rule) {
  ScaleRule torch;
  torch.growth_factor = rule.growth_factor;
  torch.backoff_factor = rule.backoff_factor;
  torch.growth_interval = rule.growth_interval;
  return rule == torch;
}

int64_t clamp_growth_tracker(const ScaleRule& rule, int64_t tracker) {
  if (rule.growth_count == GrowthCount::since_overflow) return tracker;
  return std::min(tracker, rule.growth_offset + rule.growth_interval - 1);
}

}  // namespace halfstep::detail
