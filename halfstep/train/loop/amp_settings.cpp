#include "halfstep/train/loop/amp_settings.h"

#include "halfstep/core/dtype.h"
#include "halfstep/core/error.h"
#include "halfstep/train/loop/policy_settings.h"
#include "halfstep/train/optim/constructors.h"

#include <optional>
#include <utility>

#include <ATen/autocast_mode.h>

namespace halfstep::train {

namespace {

c10::ScalarType read_dtype(Config& optim_wrapper, c10::Device device) {
  const auto name = optim_wrapper.get<std::string>("dtype", "auto");
  if (name == "auto") return at::autocast::get_autocast_dtype(device.type());
  if (name == "float16" || name == "bfloat16") return parse_dtype(name);
  optim_wrapper.fail("dtype", "must be auto, float16 or bfloat16");
}

AmpSettings float32(c10::Device device) {
  AmpSettings amp;
  amp.device_type = device.type();
  amp.loss_scale.options.device_type(device.type()).enabled(false);
  return amp;
}

AmpSettings read_amp(Config& optim_wrapper, c10::Device device) {
  auto amp = float32(device);
  amp.enabled = true;
  amp.dtype = read_dtype(optim_wrapper, device);
  amp.policy = read_policy(optim_wrapper, device.type());
  const bool is_word = !optim_wrapper.has("loss_scale") || optim_wrapper.is_text("loss_scale");
  const auto word = is_word ? optim_wrapper.get<std::string>("loss_scale", "auto") : "";
  if (word == "auto" || (word == "dynamic" && amp.dtype != c10::kHalf)) {
    amp.scaling = amp.dtype == c10::kHalf;
  } else {
    amp.loss_scale = LossScale::read(optim_wrapper);
    amp.scaling = amp.loss_scale.options.enabled();
  }
  amp.loss_scale.options.device_type(device.type()).enabled(amp.scaling);
  return amp;
}

}  // namespace

AmpSettings AmpSettings::read(Config& optim_wrapper, c10::Device device) {
  const auto type = optim_wrapper.get<std::string>("type", "OptimWrapper");
  if (type == "OptimWrapper") {
    auto amp = float32(device);
    // A mistake in what is not read does not wait for --amp.
    auto aside = optim_wrapper.copy();
    read_amp(aside, device);
    for (const char* key : {"dtype", "loss_scale", "autocast"}) {
      if (optim_wrapper.has(key))
        amp.unused += (amp.unused.empty() ? "" : " and ") + std::string(key);
      optim_wrapper.ignore(key);
      if (aside.is_mapping(key)) aside.child(key).finish();
    }
    return amp;
  }
  if (type != "AmpOptimWrapper")
    optim_wrapper.fail("type", "must be OptimWrapper or AmpOptimWrapper");
  return read_amp(optim_wrapper, device);
}

bool AmpSettings::rehearses() const {
  return enabled && dtype == c10::kHalf && device_type == c10::kCPU;
}

void AmpSettings::fall_back() {
  if (dtype == c10::kHalf) {
    dtype = c10::kBFloat16;
  } else {
    enabled = false;
    dtype = c10::kFloat;
  }
  scaling = false;
  loss_scale.options.enabled(false);
}

std::string AmpSettings::describe_dtype() const {
  if (!enabled) return "float32";
  std::string how = "autocast";
  if (policy) {
    how += ", op policy " + policy->base();
    if (const auto count = policy->changes().size() + policy->module_rules().size(); count > 0)
      how += " with " + std::to_string(count) + (count == 1 ? " change" : " changes");
  }
  if (rehearses()) how += ", rehearsed: products computed in float32 and rounded to float16";
  return dtype_name(dtype) + " (" + how + ")";
}

std::string AmpSettings::describe_scale() const {
  if (!enabled && unused.empty()) return "off (float32 needs none)";
  if (!enabled) return "off (float32 needs none; the config's " + unused + " wait for --amp)";
  if (!scaling && loss_scale.dialect == "torch")
    return "off (bfloat16 has the range of float32; a number or mapping as "
           "optim_wrapper.loss_scale turns it on)";
  return loss_scale.describe();
}

namespace {

bool takes_names(const std::string& constructor) {
  return constructor == "OptimWrapperConstructor" || constructor == "MultiOptimWrapperConstructor";
}

std::optional<std::string> switch_one_on(Config& optim_wrapper, const std::string& name) {
  const auto type = optim_wrapper.get<std::string>("type", "OptimWrapper");
  if (type == "AmpOptimWrapper")
    return "--amp changes nothing" + (name.empty() ? "" : " for '" + name + "'") + ": " +
           optim_wrapper.where("type") + " already has type AmpOptimWrapper";
  if (type != "OptimWrapper")
    optim_wrapper.fail("type", "must be OptimWrapper for --amp to switch to AmpOptimWrapper");
  optim_wrapper.set("type", "AmpOptimWrapper", "--amp");
  return std::nullopt;
}

}  // namespace

std::vector<std::string> wrapper_names(Config& optim_wrapper) {
  constexpr const char* key = "constructor";
  std::vector<std::string> names;
  if (!optim_wrapper.has(key)) {
    for (const auto& name : optim_wrapper.keys())
      if (optim_wrapper.is_mapping(name) && !optim_wrapper.has("optimizer") &&
          optim_wrapper.child(name).has("optimizer"))
        optim_wrapper.fail(name,
                           "must stand beside constructor: OptimWrapperConstructor, which "
                           "makes a wrapper of each name");
    return names;
  }
  const auto constructor = optim_wrapper.get<std::string>(key);
  if (constructor == "DefaultOptimWrapperConstructor" ||
      optim_wrapper_constructors().find(constructor) != nullptr)
    return names;
  if (!takes_names(constructor))
    optim_wrapper.fail(key,
                       "must be DefaultOptimWrapperConstructor, OptimWrapperConstructor, "
                       "MultiOptimWrapperConstructor or one that the program registered "
                       "(optim_wrapper_constructors)");
  for (const auto& name : optim_wrapper.keys()) {
    if (name == key || !optim_wrapper.has(name)) continue;
    if (!optim_wrapper.is_mapping(name) || name == "optimizer")
      optim_wrapper.fail(name, "must stand in each of the wrappers that " + constructor +
                                   " makes, which are mappings named after submodules");
    names.push_back(name);
  }
  if (names.empty()) optim_wrapper.fail(key, "must stand beside wrappers, each by its name");
  return names;
}

std::vector<std::string> switch_amp_on(Config& optim_wrapper) {
  std::vector<std::string> warnings;
  const auto add = [&](std::optional<std::string> warning) {
    if (warning) warnings.push_back(std::move(*warning));
  };
  const auto names = wrapper_names(optim_wrapper);
  if (names.empty()) add(switch_one_on(optim_wrapper, ""));
  for (const auto& name : names) {
    auto entry = optim_wrapper.child(name);
    add(switch_one_on(entry, name));
  }
  return warnings;
}

}  // namespace halfstep::train
