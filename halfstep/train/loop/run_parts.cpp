#include "halfstep/train/loop/run_parts.h"

#include "halfstep/core/error.h"
#include "halfstep/optim/fused_optimizer.h"
#include "halfstep/optim/gradient_dtype.h"
#include "halfstep/optim/weight_dtype.h"
#include "halfstep/train/loop/policy_settings.h"
#include "halfstep/train/loop/older_keys.h"
#include "halfstep/train/loop/settings.h"
#include "halfstep/train/optim/optimizers.h"

#include <iostream>

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

void read_schedule(Config& config, RunParts& parts) {
  auto entries = config.children("param_scheduler");
  if (entries.empty()) return;
  // Each would set the rate, so the last one would win in silence.
  if (entries.size() > 1)
    config.fail("param_scheduler",
                "must hold one scheduler at most (SequentialLR and ChainedScheduler hold several)");
  parts.schedule_by_epoch = entries[0].get<bool>("by_epoch", true);
  auto schedule = schedulers().build(entries[0]);
  parts.lr_scheduler = std::make_unique<optim::LRScheduler>(*parts.optimizer, std::move(schedule));
}

void read_hooks(Config& config, RunParts& parts) {
  // The built-in ones are hooks of the registry too; default_hooks names each by what it does.
  auto defaults = config.child_or_empty("default_hooks");
  const auto build_default = [&](const char* key, const char* type) {
    auto hook = defaults.child_or_empty(key);
    if (!hook.has("type")) hook.set("type", type);
    return hooks().build(hook);
  };
  parts.hooks.push_back(build_default("logger", "LoggerHook"));
  for (auto& hook : config.children("custom_hooks")) parts.hooks.push_back(hooks().build(hook));
  parts.checkpoint_hook = build_default("checkpoint", "CheckpointHook");
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

RunParts build_training(Config& config, const RunOptions& options,
                        std::optional<uint64_t> checkpoint_seed) {
  RunParts parts;
  apply_older_keys(config);
  read_seed(config, options, checkpoint_seed, parts);
  read_model(config, options, parts);
  auto optim_wrapper = config.child("optim_wrapper");
  parts.amp = read_precision(optim_wrapper, options, *parts.model);
  read_optimizer(optim_wrapper, parts);
  read_schedule(config, parts);
  auto train_cfg = config.child_or_empty("train_cfg");
  parts.max_epochs = train_cfg.get<int64_t>("max_epochs", parts.max_epochs);
  if (parts.max_epochs < 1) train_cfg.fail("max_epochs", "must be at least 1");
  read_hooks(config, parts);
  parts.train_loader = read_loader(config.child("train_dataloader"), parts.seed);
  if (auto test = config.child_if("test_dataloader"))
    parts.test_loader = read_loader(*test, parts.seed);
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
                          "custom_hooks", "train_dataloader"})
    config.ignore(key);
  parts.test_loader = read_loader(config.child("test_dataloader"), parts.seed);
  config.finish();
  return parts;
}

}  // namespace halfstep::train
