#include "halfstep/train/loop/loss_scale.h"

#include "halfstep/scaling/dialects.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace halfstep::train {

namespace {

double read_positive(Config& scale, const char* key, double fallback) {
  const auto value = scale.get<double>(key, fallback);
  if (!(value > 0)) scale.fail(key, "must be above 0");
  return value;
}

// float32's range is that of the scale.
double read_scale(Config& scale, const char* key, double fallback) {
  const auto value = read_positive(scale, key, fallback);
  const auto narrow = static_cast<float>(value);
  if (!(narrow > 0) || !std::isfinite(narrow)) scale.fail(key, "must be in the range of float32");
  return value;
}

/// MMCV wrote its own scaler's numbers under names of its own.
const char* given_name(Config& scale, bool legacy, const char* name, const char* mmcv_name) {
  return legacy && scale.has(mmcv_name) ? mmcv_name : name;
}

std::string read_dialect(Config& scale) {
  const auto known = dialects::names();
  auto dialect = scale.get<std::string>("dialect", "torch");
  if (std::find(known.begin(), known.end(), dialect) == known.end())
    scale.fail("dialect", fmt::format("must be one of {}", fmt::join(known, ", ")));
  if (dialect != "mmcv" && scale.has("dialect")) return dialect;
  const bool legacy = scale.has("mode") || scale.has("scale_factor") || scale.has("scale_window");
  if (!legacy) return dialect;
  const auto mode = scale.get<std::string>("mode", "dynamic");
  if (mode != "dynamic" && mode != "static") scale.fail("mode", "must be dynamic or static");
  return mode == "static" ? "mmcv_legacy_static" : "mmcv_legacy";
}

void read_dynamic_rule(Config& scale, bool legacy, GradScalerOptions& options) {
  const char* growth_factor = given_name(scale, legacy, "growth_factor", "scale_factor");
  options.growth_factor(read_positive(scale, growth_factor, options.growth_factor()));
  if (options.growth_factor() <= 1) scale.fail(growth_factor, "must be above 1");
  if (!options.backoff_divides() || scale.has("backoff_factor")) {
    options.backoff_factor(read_positive(scale, "backoff_factor", options.backoff_factor()));
    options.backoff_divides(false);
    if (options.backoff_factor() >= 1) scale.fail("backoff_factor", "must be below 1");
  }
  const char* interval = given_name(scale, legacy, "growth_interval", "scale_window");
  options.growth_interval(scale.get_count(interval, options.growth_interval()));

  options.min_scale(scale.get<double>("min_scale", options.min_scale()));
  if (!(options.min_scale() >= 0)) scale.fail("min_scale", "must be 0 or more");
  if (options.min_scale() > options.init_scale())
    scale.fail("min_scale", fmt::format("must be at most init_scale {:g}", options.init_scale()));
  // Left out of the resolved config where there is none: a config has no infinity.
  if (scale.has("max_scale") || std::isfinite(options.max_scale()))
    options.max_scale(read_positive(scale, "max_scale", options.max_scale()));
  if (options.max_scale() < options.min_scale())
    scale.fail("max_scale", fmt::format("must be at least min_scale {:g}", options.min_scale()));

  options.hysteresis(scale.get_count("hysteresis", options.hysteresis()));
  const bool by_clean_step = options.hysteresis_refill() == HysteresisRefill::on_clean_step;
  const auto refill =
      scale.get<std::string>("hysteresis_refill", by_clean_step ? "on_clean_step" : "on_growth");
  if (refill != "on_clean_step" && refill != "on_growth")
    scale.fail("hysteresis_refill", "must be on_growth or on_clean_step");
  options.hysteresis_refill(refill == "on_growth" ? HysteresisRefill::on_growth
                                                  : HysteresisRefill::on_clean_step);
}

/// Single overflows at the minimum scale are no reason to end a run; so many in a row are.
constexpr int64_t kPatience = 20;

/// What to do about overflows that go on at the minimum scale, where a dialect does not say it.
void stop_at_min_scale(GradScalerOptions& options) {
  if (!options.enabled() || !options.check_overflow() ||
      options.at_min_scale() != AtMinScale::keep_going)
    return;
  options.at_min_scale(AtMinScale::stop).min_scale_patience(kPatience);
}

void read_at_min_scale(Config& scale, GradScalerOptions& options) {
  const auto policy = scale.get<std::string>("at_min_scale", "stop");
  if (policy == "stop")
    options.at_min_scale(AtMinScale::stop);
  else if (policy == "fall_back")
    options.at_min_scale(AtMinScale::fall_back);
  else if (policy == "continue")
    options.at_min_scale(AtMinScale::keep_going);
  else
    scale.fail("at_min_scale", "must be stop, fall_back or continue");
  options.min_scale_patience(scale.get_count("min_scale_patience", options.min_scale_patience()));
}

LossScale read_mapping(Config scale) {
  LossScale result;
  result.dialect = read_dialect(scale);
  result.options = dialects::by_name(result.dialect);
  if (!result.options.enabled()) return result;
  result.options.init_scale(read_scale(scale, "init_scale", result.options.init_scale()));
  const bool legacy = result.dialect.starts_with("mmcv_legacy");
  if (result.options.dynamic()) read_dynamic_rule(scale, legacy, result.options);
  stop_at_min_scale(result.options);
  if (result.options.check_overflow()) read_at_min_scale(scale, result.options);
  return result;
}

}  // namespace

LossScale::LossScale() {
  stop_at_min_scale(options);
}

LossScale LossScale::read(Config& optim_wrapper) {
  if (optim_wrapper.is_mapping("loss_scale"))
    return read_mapping(optim_wrapper.child("loss_scale"));
  LossScale result;
  if (optim_wrapper.is_number("loss_scale")) {
    result.dialect = "mmcv_static";
    result.options = dialects::mmcv_static(read_scale(optim_wrapper, "loss_scale", 0));
    stop_at_min_scale(result.options);
  } else if (!optim_wrapper.is_text("loss_scale") ||
             optim_wrapper.get<std::string>("loss_scale") != "dynamic") {
    optim_wrapper.fail("loss_scale",
                       "must be auto, dynamic, a number or a mapping of init_scale, growth_factor, "
                       "backoff_factor, growth_interval, dialect and others (docs/config.md)");
  }
  return result;
}

std::string LossScale::describe() const {
  if (!options.enabled()) return fmt::format("off ({})", dialect);
  auto text = fmt::format(fmt::runtime(options.dynamic() ? "dynamic, from {:g}" : "static {:g}"),
                          options.init_scale());
  if (!options.check_overflow()) text += ", unchecked";
  if (dialect != "torch" && dialect != "mmcv_static") text += fmt::format(" ({})", dialect);
  return text;
}

}  // namespace halfstep::train
