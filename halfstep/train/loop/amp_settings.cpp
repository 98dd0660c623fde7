#include "halfstep/train/loop/amp_settings.h"

#include "halfstep/core/dtype.h"
#include "halfstep/core/error.h"

#include <cmath>

#include <ATen/autocast_mode.h>

#include <fmt/format.h>

namespace halfstep::train {

namespace {

void read_scale_mapping(Config scale, GradScalerOptions& options) {
  const auto positive = [&](const char* key, double fallback) {
    const auto value = scale.get<double>(key, fallback);
    if (!(value > 0)) scale.fail(key, "must be above 0");
    return value;
  };
  options.init_scale(positive("init_scale", options.init_scale()));
  options.growth_factor(positive("growth_factor", options.growth_factor()));
  if (options.growth_factor() <= 1) scale.fail("growth_factor", "must be above 1");
  options.backoff_factor(positive("backoff_factor", options.backoff_factor()));
  if (options.backoff_factor() >= 1) scale.fail("backoff_factor", "must be below 1");
  options.growth_interval(scale.get<int64_t>("growth_interval", options.growth_interval()));
  if (options.growth_interval() < 1) scale.fail("growth_interval", "must be at least 1");
}

c10::ScalarType read_dtype(Config& optim_wrapper, c10::Device device) {
  const auto name = optim_wrapper.get<std::string>("dtype", "auto");
  if (name == "auto") return at::autocast::get_autocast_dtype(device.type());
  if (name == "float16" || name == "bfloat16") return parse_dtype(name);
  optim_wrapper.fail("dtype", "must be auto, float16 or bfloat16");
}

}  // namespace

AmpSettings AmpSettings::read(Config& optim_wrapper, c10::Device device) {
  AmpSettings amp;
  amp.scaler = GradScalerOptions(device.type()).enabled(false);
  const auto type = optim_wrapper.get<std::string>("type", "OptimWrapper");
  if (type == "OptimWrapper") return amp;
  if (type != "AmpOptimWrapper")
    optim_wrapper.fail("type", "must be OptimWrapper or AmpOptimWrapper");

  amp.enabled = true;
  amp.dtype = read_dtype(optim_wrapper, device);
  amp.scaling = amp.dtype == c10::kHalf;
  if (optim_wrapper.has("loss_scale")) {
    amp.scaling = true;
    if (optim_wrapper.is_mapping("loss_scale")) {
      read_scale_mapping(optim_wrapper.child("loss_scale"), amp.scaler);
    } else if (optim_wrapper.is_number("loss_scale")) {
      const auto scale = optim_wrapper.get<double>("loss_scale");
      if (!(scale > 0)) optim_wrapper.fail("loss_scale", "must be above 0");
      amp.static_scale = scale;
      amp.scaler.init_scale(scale);
    } else if (optim_wrapper.get<std::string>("loss_scale") != "dynamic") {
      optim_wrapper.fail("loss_scale",
                         "must be dynamic, a number or a mapping of init_scale, growth_factor, "
                         "backoff_factor and growth_interval");
    }
  }
  amp.scaler.enabled(amp.scaling);
  return amp;
}

std::string AmpSettings::describe_dtype() const {
  return enabled ? dtype_name(dtype) + " (autocast)" : "float32";
}

std::string AmpSettings::describe_scale() const {
  if (!enabled) return "off (float32 needs none)";
  if (!scaling)
    return "off (bfloat16 has the range of float32; optim_wrapper.loss_scale turns it on)";
  if (static_scale) return fmt::format("static {:g}", *static_scale);
  return fmt::format("dynamic, from {:g}", scaler.init_scale());
}

std::string switch_amp_on(Config& optim_wrapper) {
  const auto type = optim_wrapper.get<std::string>("type", "OptimWrapper");
  if (type == "AmpOptimWrapper")
    return "--amp changes nothing: " + optim_wrapper.where("type") +
           " already has type AmpOptimWrapper";
  if (type != "OptimWrapper")
    optim_wrapper.fail("type", "must be OptimWrapper for --amp to switch to AmpOptimWrapper");
  optim_wrapper.set("type", "AmpOptimWrapper", "--amp");
  return "";
}

}  // namespace halfstep::train
