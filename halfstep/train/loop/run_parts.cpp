#include "halfstep/train/loop/run_parts.h"

#include "halfstep/core/error.h"
#include "halfstep/optim/fused_optimizer.h"
#include "halfstep/optim/gradient_dtype.h"
#include "halfstep/optim/weight_dtype.h"
#include "halfstep/train/loop/older_keys.h"
#include "halfstep/train/loop/policy_settings.h"
#include "halfstep/train/loop/settings.h"
#include "halfstep/train/optim/optimizers.h"

#include <iostream>
#include <string_view>
#include <utility>

#include <torch/utils.h>

namespace halfstep::train {

namespace {

AmpSettings read_precision(Config& optim_wrapper, const RunOptions& options, const Model& model) {
  if (options.amp) {
    const std::string warning = switch_amp_on(optim_wrapper);
    if (!warning.empty()) std::cerr << "warning: " << warning << '\n';
  }
  auto amp = AmpSettings::read(optim_wrapper, options.device);
  bind_policy(optim_wrapper, amp.policy, model);
  return amp;
}

std::unique_ptr<Loader> read_loader(Config config, uint64_t seed) {
  LoaderOptions options;
  options.batch_size = config.get<int64_t>("batch_size", options.batch_size);
  if (options.batch_size < 1) config.fail("batch_size", "must be at least 1");
  options.shuffle = config.get<bool>("shuffle", options.shuffle);
  options.drop_last = config.get<bool>("drop_last", options.drop_last);
  options.seed = seed;
  auto dataset_config = config.child("dataset");
  auto dataset = datasets().build(dataset_config);
  if (options.drop_last && dataset->size() < options.batch_size)
    config.fail("batch_size", "must be at most " + std::to_string(dataset->size()) +
                                  ", the number of examples, where drop_last is true");
  return std::make_unique<Loader>(std::move(dataset), options);
}

void read_seed(Config& config, const RunOptions& options, std::optional<uint64_t> checkpoint_seed,
               RunParts& parts) {
  auto randomness = config.child_or_empty("randomness");
  if (options.seed) {
    randomness.set("seed", std::to_string(*options.seed), "--seed");
  } else if (checkpoint_seed && !randomness.has("seed")) {
    randomness.set("seed", std::to_string(*checkpoint_seed), "the checkpoint");
  }
  const auto seed = randomness.get<int64_t>("seed", 0);
  if (seed < 0) randomness.fail("seed", "must be from 0 to 2^63 - 1");
  parts.seed = static_cast<uint64_t>(seed);
  torch::manual_seed(parts.seed);
}

void read_model(Config& config, const RunOptions& options, RunParts& parts) {
  auto model = config.child("model");
  try {
    parts.model = models().build(model);
    parts.model->to(options.device);
  } catch (const c10::Error& error) {
    model.fail("", std::string("must be one that LibTorch can build, but it says: ") +
                       error.what_without_backtrace() + "; check the model's sizes");
  }
  auto loss = config.child("loss");
  parts.loss = losses().build(loss);
}

/// Masters are of 16-bit weights: gives the model those.
void choose_weight_dtype(Config& optimizer, RunParts& parts) {
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
  if (optim::set_weight_dtype(*parts.model, amp.dtype) == 0)
    optimizer.fail(key,
                   "must be none for a model without linear and convolution layers (theirs "
                   "are the weights that it makes 16-bit ones)");
}

void read_optimizer(Config& optim_wrapper, RunParts& parts) {
  std::vector<torch::Tensor> parameters;
  for (const auto& item : parts.model->named_parameters()) {
    if (!item.value().requires_grad()) continue;
    parts.parameter_names.push_back(item.key());
    parameters.push_back(item.value());
  }
  HALFSTEP_CHECK_USAGE(
      !parameters.empty(), "train",
      "a model must have parameters to train, but this one has none; leave requires_grad on "
      "for some of them");
  auto optimizer = optim_wrapper.child("optimizer");
  parts.optimizer = optimizers().build(optimizer, parameters);
  if (const auto* fused = dynamic_cast<const optim::FusedOptimizer*>(parts.optimizer.get())) {
    const auto& defaults = static_cast<const optim::FusedOptions&>(fused->defaults());
    parts.master_weights = defaults.settings().master_weights;
    choose_weight_dtype(optimizer, parts);
  }
  parts.choose_shadow_weights();
}

void read_loop(Config& config, RunParts& parts) {
  auto train_cfg = config.child_or_empty("train_cfg");
  parts.loop = LoopSettings::read(train_cfg);
}

void read_hooks(Config& config, RunParts& parts) {
  auto log_processor = config.child_or_empty("log_processor");
  parts.log_processor = LogProcessor(log_processor, parts.loop.by_epoch);
  const auto add = [&](Config& hook) {
    const auto priority = read_priority(hook);
    parts.hooks.add(hooks().build(hook), priority);
  };
  // The built-in ones are hooks of the registry too; default_hooks names each by what it does.
  auto defaults = config.child_or_empty("default_hooks");
  for (const auto& [key, type] : {std::pair("runtime_info", "RuntimeInfoHook"),
                                  {"timer", "IterTimerHook"},
                                  {"logger", "LoggerHook"},
                                  {"param_scheduler", "ParamSchedulerHook"},
                                  {"checkpoint", "CheckpointHook"}}) {
    auto hook = defaults.child_or_empty(key);
    if (!hook.has("type")) hook.set("type", type);
    if (std::string_view(key) == "checkpoint" && !parts.loop.by_epoch && !hook.has("by_epoch") &&
        hook.get<std::string>("type") == type)
      hook.set("by_epoch", "false");
    add(hook);
  }
  for (auto& hook : config.children("custom_hooks")) add(hook);
}

/// The metrics of one key: a mapping, or a list of mappings.
Evaluator read_evaluator(Config& config, const char* key) {
  std::vector<std::unique_ptr<Metric>> result;
  if (config.is_mapping(key)) {
    auto metric = config.child(key);
    result.push_back(metrics().build(metric));
  } else {
    for (auto& metric : config.children(key)) result.push_back(metrics().build(metric));
  }
  return Evaluator(std::move(result));
}

/// The loader and the metrics of the first of two pairs of keys that is there; the other pair is
/// another command's.
void read_evaluation(Config& config, const char* first, const char* second, RunParts& parts) {
  const auto key = [](const char* kind, const char* part) { return std::string(kind) + part; };
  const auto read = [&](const char* part, const auto& use) {
    const auto wanted = key(first, part);
    const auto other = key(second, part);
    const bool has_first = config.has(wanted);
    use(has_first ? wanted : other);
    if (has_first) config.ignore(other);
  };
  read("_dataloader", [&](const std::string& name) {
    if (auto loader = config.child_if(name)) parts.test_loader = read_loader(*loader, parts.seed);
  });
  read("_evaluator", [&](const std::string& name) {
    if (config.has(name)) parts.evaluator = read_evaluator(config, name.c_str());
  });
}

}  // namespace

void RunParts::choose_shadow_weights() const {
  auto* fused = dynamic_cast<optim::FusedOptimizer*>(optimizer.get());
  if (!fused) return;
  fused->drop_shadow_weights();
  if (master_weights != optim::MasterWeights::none) return;
  if (amp.enabled) fused->keep_shadow_weights(amp.dtype);
  // A rehearsal has rounded gradients already: casting them back would cost time and change no bit.
  const auto dtype = amp.rehearses() ? c10::kHalf : c10::kFloat;
  fused->zero_grad();
  for (const auto& group : fused->param_groups())
    for (const auto& weight : group.params())
      if (weight.scalar_type() == c10::kFloat && optim::gradient_dtype(weight) != dtype)
        optim::set_gradient_dtype({weight}, dtype);
}

std::filesystem::path read_load_from(Config& config, const RunOptions& options) {
  // In quotes, so that it is a text whatever the file's name.
  if (!options.load_from.empty())
    config.set("load_from", nlohmann::json(options.load_from.string()).dump(), "--load-from");
  return config.has("load_from") ? config.get<std::string>("load_from") : "";
}

RunParts build_training(Config& config, const RunOptions& options,
                        std::optional<uint64_t> checkpoint_seed) {
  RunParts parts;
  apply_older_keys(config);
  read_seed(config, options, checkpoint_seed, parts);
  read_model(config, options, parts);
  auto optim_wrapper = config.child("optim_wrapper");
  parts.amp = read_precision(optim_wrapper, options, *parts.model);
  read_optimizer(optim_wrapper, parts);
  read_loop(config, parts);
  parts.schedulers = SchedulerList(*parts.optimizer, read_schedulers(config, parts.loop.by_epoch));
  read_hooks(config, parts);
  parts.train_loader = read_loader(config.child("train_dataloader"), parts.seed);
  read_evaluation(config, "val", "test", parts);
  config.finish();
  parts.resolved_config = config.resolved();
  parts.settings = binding_settings(config);
  return parts;
}

RunParts build_testing(Config& config, const RunOptions& options) {
  RunParts parts;
  apply_older_keys(config);
  read_model(config, options, parts);
  auto optim_wrapper = config.child("optim_wrapper");
  parts.amp = read_precision(optim_wrapper, options, *parts.model);
  optim_wrapper.ignore("optimizer");
  if (optim_wrapper.is_mapping("optimizer")) {
    auto optimizer = optim_wrapper.child("optimizer");
    if (optimizer.has("master_weights")) parts.master_weights = read_master_weights(optimizer);
    choose_weight_dtype(optimizer, parts);
  }
  for (const char* key : {"randomness", "param_scheduler", "train_cfg", "default_hooks",
                          "custom_hooks", "log_processor", "load_from", "train_dataloader"})
    config.ignore(key);
  if (!config.has("val_dataloader")) config.child("test_dataloader");
  read_evaluation(config, "test", "val", parts);
  config.finish();
  return parts;
}

}  // namespace halfstep::train
