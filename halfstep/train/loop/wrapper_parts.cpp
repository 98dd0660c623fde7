#include "halfstep/train/loop/wrapper_parts.h"

#include "halfstep/core/error.h"
#include "halfstep/optim/fused_optimizer.h"
#include "halfstep/optim/gradient_dtype.h"
#include "halfstep/optim/weight_dtype.h"
#include "halfstep/optim_wrapper/amp_optim_wrapper.h"
#include "halfstep/train/loop/policy_settings.h"
#include "halfstep/train/optim/constructors.h"

#include <algorithm>
#include <iostream>
#include <limits>
#include <optional>
#include <utility>

namespace halfstep::train {

namespace {

/// Masters are of 16-bit weights: gives the module those.
void choose_weight_dtype(Config& optimizer, const WrapperParts& parts, torch::nn::Module& module) {
  constexpr const char* key = "master_weights";
  if (parts.master_weights == optim::MasterWeights::none) return;
  const auto& amp = parts.amp;
  if (!amp.enabled)
    optimizer.fail(key,
                   "must be none where the weights stay float32 (--amp, or type: "
                   "AmpOptimWrapper, makes 16-bit ones)");
  if (parts.master_weights == optim::MasterWeights::remainder && amp.dtype == c10::kHalf)
    optimizer.fail(key,
                   "must be none or float32 with dtype float16 (bfloat16 alone is the upper "
                   "half of a float32, which remainder completes)");
  if (amp.scaling && amp.loss_scale.options.at_min_scale() == AtMinScale::fall_back)
    optimizer.fail(key,
                   "must be none with loss_scale.at_min_scale fall_back (16-bit weights can't "
                   "change their dtype on the way; take stop or continue)");
  if (optim::set_weight_dtype(module, amp.dtype) == 0)
    optimizer.fail(key,
                   "must be none for a model without linear and convolution layers (theirs "
                   "are the weights that it makes 16-bit ones)");
}

// Keys that may be missing are asked for first: a default in the settings would part them from
// those of older checkpoints.
int64_t read_counts(Config& mapping) {
  constexpr const char* key = "accumulative_counts";
  if (!mapping.has(key)) return 1;
  const auto counts = mapping.get<int64_t>(key);
  if (counts < 1) mapping.fail(key, "must be at least 1 iteration");
  return counts;
}

std::optional<ClipGrad> read_clip(Config& mapping) {
  auto clip = mapping.child_if("clip_grad");
  if (!clip) return std::nullopt;
  const bool by_value = clip->is_number("clip_value") && !clip->is_number("max_norm");
  const auto type = clip->get<std::string>("type", by_value ? "value" : "norm");
  const auto limit = [&](const char* key) {
    const auto value = clip->get<double>(key);
    if (!(value >= 0)) clip->fail(key, "must be at least 0");
    return value;
  };
  if (type == "value") return ClipGrad::value(limit("clip_value"));
  if (type != "norm") clip->fail("type", "must be norm or value");
  const auto max_norm = limit("max_norm");
  if (clip->is_text("norm_type") && clip->get<std::string>("norm_type") == "inf")
    return ClipGrad::norm(max_norm, std::numeric_limits<double>::infinity());
  const auto norm_type = clip->get<double>("norm_type", 2.0);
  if (!(norm_type > 0)) clip->fail("norm_type", "must be above 0, or inf");
  return ClipGrad::norm(max_norm, norm_type);
}

/// The loop words the error, as it knows the step and the epoch.
GradScalerOptions scaler_options(GradScalerOptions options, dist::ProcessGroup* group) {
  if (group != nullptr && options.check_overflow()) options.process_group(group->handle());
  if (options.at_min_scale() == AtMinScale::stop) options.at_min_scale(AtMinScale::fall_back);
  return options;
}

std::shared_ptr<OptimWrapper> make_wrapper(Config& mapping, const AmpSettings& amp,
                                           std::shared_ptr<torch::optim::Optimizer> optimizer,
                                           dist::ProcessGroup* group) {
  const auto counts = read_counts(mapping);
  const auto clip = read_clip(mapping);
  if (!amp.enabled)
    return std::make_shared<OptimWrapper>(
        std::move(optimizer), OptimWrapperOptions().accumulative_counts(counts).clip_grad(clip));
  return std::make_shared<AmpOptimWrapper>(
      std::move(optimizer), AmpOptimWrapperOptions()
                                .dtype(amp.dtype)
                                .policy(amp.policy)
                                .loss_scale(scaler_options(amp.loss_scale.options, group))
                                .accumulative_counts(counts)
                                .clip_grad(clip));
}

/// Rules by module may name any of the model's: a wrapper's region may run them all.
AmpSettings read_precision(Config& mapping, const torch::nn::Module& model, c10::Device device) {
  auto amp = AmpSettings::read(mapping, device);
  bind_policy(mapping, amp.policy, model);
  return amp;
}

WrapperParts build_one(Config& mapping, const torch::nn::Module& model, torch::nn::Module& module,
                       c10::Device device, const std::string& name, dist::ProcessGroup* group) {
  WrapperParts parts;
  parts.name = name;
  parts.exchanges_gradients = group != nullptr;
  parts.amp = read_precision(mapping, model, device);
  auto built = construct_optimizer(mapping, module, name.empty() ? "" : name + ".");
  for (const auto& warning : built.warnings) std::cerr << "warning: " << warning << '\n';
  parts.parameter_names = std::move(built.parameter_names);
  parts.notes = std::move(built.notes);
  auto optimizer = mapping.child("optimizer");
  if (const auto* fused = dynamic_cast<const optim::FusedOptimizer*>(built.optimizer.get())) {
    const auto& defaults = static_cast<const optim::FusedOptions&>(fused->defaults());
    parts.master_weights = defaults.settings().master_weights;
    choose_weight_dtype(optimizer, parts, module);
  }
  parts.wrapper = make_wrapper(mapping, parts.amp, std::move(built.optimizer), group);
  parts.choose_shadow_weights();
  return parts;
}

WrapperParts read_one_for_testing(Config& mapping, const torch::nn::Module& model,
                                  torch::nn::Module& module, c10::Device device,
                                  const std::string& name) {
  WrapperParts parts;
  parts.name = name;
  parts.amp = read_precision(mapping, model, device);
  for (const char* key :
       {"optimizer", "paramwise_cfg", "accumulative_counts", "clip_grad", "constructor"})
    mapping.ignore(key);
  // What a program's own constructor reads, its training checks.
  if (mapping.is_text("constructor") &&
      optim_wrapper_constructors().find(mapping.get<std::string>("constructor")))
    for (const auto& key : mapping.keys()) mapping.ignore(key);
  if (!mapping.is_mapping("optimizer")) return parts;
  auto optimizer = mapping.child("optimizer");
  if (optimizer.has("master_weights")) parts.master_weights = read_master_weights(optimizer);
  choose_weight_dtype(optimizer, parts, module);
  return parts;
}

std::string list_of(const std::vector<std::string>& names) {
  std::string list;
  for (const auto& name : names)
    if (name != "data_preprocessor") list += (list.empty() ? "" : ", ") + name;
  return list;
}

torch::nn::Module& submodule(Config& entry, torch::nn::Module& model, const std::string& name) {
  const auto children = model.named_children();
  if (!children.contains(name))
    entry.fail("", "must be named after a submodule of the model (" + list_of(children.keys()) +
                       "), whose parameters it trains");
  return *children[name];
}

template <class Read>
std::vector<WrapperParts> read_all(Config& optim_wrapper, torch::nn::Module& model, bool amp,
                                   const Read& read) {
  if (amp)
    for (const auto& warning : switch_amp_on(optim_wrapper))
      std::cerr << "warning: " << warning << '\n';
  std::vector<WrapperParts> result;
  const auto names = wrapper_names(optim_wrapper);
  if (names.empty()) {
    result.push_back(read(optim_wrapper, model, ""));
    return result;
  }
  for (const auto& name : names) {
    auto entry = optim_wrapper.child(name);
    result.push_back(read(entry, submodule(entry, model, name), name));
  }
  return result;
}

void warn_about_untrained(const torch::nn::Module& model,
                          const std::vector<WrapperParts>& wrappers) {
  for (const auto& item : model.named_parameters()) {
    const auto trained = [&](const WrapperParts& parts) {
      return std::find(parts.parameter_names.begin(), parts.parameter_names.end(), item.key()) !=
             parts.parameter_names.end();
    };
    if (!item.value().requires_grad() || std::any_of(wrappers.begin(), wrappers.end(), trained))
      continue;
    std::cerr << "warning: no optim_wrapper trains '" << item.key()
              << "' and what else it does not name\n";
    return;
  }
}

}  // namespace

double WrapperParts::learning_rate() const {
  const auto* base = wrapper->base_settings();
  return base != nullptr ? base->get_lr() : wrapper->param_groups().front().options().get_lr();
}

GradScaler* WrapperParts::scaler() const {
  auto* amp_wrapper = dynamic_cast<AmpOptimWrapper*>(wrapper.get());
  return amp_wrapper == nullptr ? nullptr : &amp_wrapper->scaler();
}

void WrapperParts::fall_back() {
  HALFSTEP_CHECK_USAGE(master_weights == optim::MasterWeights::none, "Trainer::fall_back",
                       "a run that falls back must have float32 weights, but master_weights gives "
                       "it 16-bit ones; leave it out");
  amp.fall_back();
  if (auto* amp_wrapper = dynamic_cast<AmpOptimWrapper*>(wrapper.get())) amp_wrapper->fall_back();
  choose_shadow_weights();
}

void WrapperParts::choose_shadow_weights() const {
  auto* fused = dynamic_cast<optim::FusedOptimizer*>(&wrapper->optimizer());
  if (!fused) return;
  fused->drop_shadow_weights();
  if (master_weights != optim::MasterWeights::none) return;
  if (amp.enabled) fused->keep_shadow_weights(amp.dtype);
  // A rehearsal has rounded gradients already: casting them back would cost time and change no bit.
  const auto& clip = wrapper->options().clip_grad();
  const bool as_they_come = wrapper->accumulative_counts() == 1 &&
                            (!clip || clip->fits_fused_optimizers()) && !exchanges_gradients;
  const auto dtype = amp.rehearses() && as_they_come ? c10::kHalf : c10::kFloat;
  fused->zero_grad();
  for (const auto& group : fused->param_groups())
    for (const auto& weight : group.params())
      if (weight.scalar_type() == c10::kFloat && optim::gradient_dtype(weight) != dtype)
        optim::set_gradient_dtype({weight}, dtype);
}

std::vector<WrapperParts> build_wrappers(Config& optim_wrapper, torch::nn::Module& model,
                                         c10::Device device, bool amp, dist::ProcessGroup* group) {
  auto wrappers =
      read_all(optim_wrapper, model, amp,
               [&](Config& mapping, torch::nn::Module& module, const std::string& name) {
                 return build_one(mapping, model, module, device, name, group);
               });
  if (!wrappers.front().name.empty()) warn_about_untrained(model, wrappers);
  return wrappers;
}

std::vector<WrapperParts> read_wrappers_for_testing(Config& optim_wrapper, torch::nn::Module& model,
                                                    c10::Device device, bool amp) {
  return read_all(optim_wrapper, model, amp,
                  [&](Config& mapping, torch::nn::Module& module, const std::string& name) {
                    return read_one_for_testing(mapping, model, module, device, name);
                  });
}

std::string describe_dtypes(const std::vector<WrapperParts>& wrappers) {
  std::vector<std::string> texts;
  for (const auto& parts : wrappers) {
    const auto text = parts.amp.describe_dtype();
    if (std::find(texts.begin(), texts.end(), text) == texts.end()) texts.push_back(text);
  }
  std::string all;
  for (const auto& text : texts) all += (all.empty() ? "" : " and ") + text;
  return all;
}

void build_schedulers(Config& config, bool run_by_epoch, std::vector<WrapperParts>& wrappers) {
  constexpr const char* key = "param_scheduler";
  const auto give = [](WrapperParts& parts, std::vector<ScheduleEntry> entries) {
    parts.schedulers = SchedulerList(parts.wrapper->optimizer(), std::move(entries),
                                     parts.wrapper->base_settings());
  };
  if (!wrappers.front().name.empty() && config.is_mapping(key)) {
    auto by_name = config.child(key);
    for (auto& parts : wrappers)
      if (by_name.has(parts.name)) give(parts, read_schedulers(by_name, run_by_epoch, parts.name));
    return;
  }
  const auto entries = read_schedulers(config, run_by_epoch, key);
  for (auto& parts : wrappers) give(parts, entries);
}

}  // namespace halfstep::train
