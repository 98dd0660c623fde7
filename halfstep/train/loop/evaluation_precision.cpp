#include "halfstep/train/loop/evaluation_precision.h"

#include "halfstep/core/error.h"
#include "halfstep/train/loop/policy_settings.h"

#include <algorithm>

namespace halfstep::train {

namespace {

/// The larger, the more a value keeps.
int width(const AmpSettings& amp) {
  if (!amp.enabled) return 2;
  return amp.dtype == c10::kBFloat16 ? 1 : 0;
}

std::string policy_text(const AmpSettings& amp) {
  return amp.policy ? policy_to_yaml(*amp.policy) : "";
}

bool agree(const AmpSettings& a, const AmpSettings& b) {
  return width(a) == width(b) && (!a.enabled || policy_text(a) == policy_text(b));
}

// As an AmpOptimWrapper that says nothing more.
AmpSettings device_precision(c10::Device device) {
  auto mapping = Config::parse("{type: AmpOptimWrapper}");
  return AmpSettings::read(mapping, device);
}

std::string whose(const WrapperParts& parts) {
  const auto& amp = parts.amp;
  const auto policy = amp.enabled && amp.policy ? " " + policy_text(amp) : "";
  return "'" + parts.name + "' has " + amp.describe_dtype() + policy;
}

}  // namespace

EvaluationPrecision EvaluationPrecision::read(std::optional<Config> loop, const std::string& name,
                                              Config& optim_wrapper,
                                              const std::vector<WrapperParts>& wrappers,
                                              c10::Device device) {
  EvaluationPrecision result;
  std::optional<bool> fp16;
  if (loop) {
    const std::string type = name == "val_cfg" ? "ValLoop" : "TestLoop";
    if (loop->get<std::string>("type", type) != type) loop->fail("type", "must be " + type);
    if (loop->has("fp16")) fp16 = loop->get<bool>("fp16");
  }
  if (fp16 == false) {
    for (const auto& parts : wrappers)
      if (parts.master_weights != optim::MasterWeights::none)
        loop->fail(
            "fp16",
            "must be true, or left out, beside master_weights, which make the weights 16-bit ones");
    result.fixed_.emplace().device_type = device.type();
    return result;
  }
  result.amp_only_ = fp16.has_value();
  const WrapperParts* first = nullptr;
  for (const auto& parts : wrappers) {
    result.began_in_amp_.push_back(parts.amp.enabled);
    if (result.amp_only_ && !parts.amp.enabled) continue;
    if (first == nullptr) first = &parts;
    if (!agree(parts.amp, first->amp))
      optim_wrapper.fail("", "must have one precision for the model to be evaluated in, but " +
                                 whose(*first) + " and " + whose(parts) + "; write " + name +
                                 ": {fp16: false} to evaluate in float32" +
                                 (result.amp_only_ || !(first->amp.enabled != parts.amp.enabled)
                                      ? ", or give them the same dtype and autocast"
                                      : ", or {fp16: true} for the precision of those that are "
                                        "AmpOptimWrappers"));
  }
  if (first == nullptr) result.fixed_ = device_precision(device);
  return result;
}

const AmpSettings& EvaluationPrecision::of(const std::vector<WrapperParts>& wrappers) const {
  if (fixed_) return *fixed_;
  const AmpSettings* widest = nullptr;
  for (size_t i = 0; i < wrappers.size(); ++i) {
    if (amp_only_ && !began_in_amp_.at(i)) continue;
    const auto& amp = wrappers[i].amp;
    if (widest == nullptr || width(amp) > width(*widest)) widest = &amp;
  }
  return *widest;
}

}  // namespace halfstep::train
