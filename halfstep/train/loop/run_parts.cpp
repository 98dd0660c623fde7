#include "halfstep/train/loop/run_parts.h"

#include "halfstep/core/error.h"
#include "halfstep/train/loop/auto_scale_lr.h"
#include "halfstep/train/loop/older_keys.h"
#include "halfstep/train/loop/ranks.h"
#include "halfstep/train/loop/settings.h"
#include "halfstep/train/models/build_model.h"
#include "halfstep/train/optim/iter_based.h"

#include <string_view>
#include <utility>

#include <torch/utils.h>

namespace halfstep::train {

namespace {

/// With `group`, this process's part of each batch.
std::unique_ptr<Loader> read_loader(Config config, uint64_t seed, const dist::ProcessGroup* group) {
  LoaderOptions options;
  if (group != nullptr) {
    options.rank = group->rank();
    options.ranks = group->world_size();
  }
  options.batch_size = config.get<int64_t>("batch_size", options.batch_size);
  if (options.batch_size < 1) config.fail("batch_size", "must be at least 1");
  options.shuffle = config.get<bool>("shuffle", options.shuffle);
  options.drop_last = config.get<bool>("drop_last", options.drop_last);
  options.seed = seed;
  auto dataset_config = config.child("dataset");
  auto dataset = datasets().build(dataset_config);
  if (options.drop_last && dataset->size() < options.batch_size * options.ranks)
    config.fail(
        "batch_size",
        "must be at most " + std::to_string(dataset->size() / options.ranks) +
            ", the number of examples" +
            (options.ranks > 1 ? " over " + std::to_string(options.ranks) + " processes" : "") +
            ", where drop_last is true");
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
  // Asked for first: a default in the settings would part them from those of older checkpoints.
  constexpr const char* diff = "diff_rank_seed";
  if (randomness.has(diff)) parts.diff_rank_seed = randomness.get<bool>(diff);
  torch::manual_seed(parts.seed);
}

void read_model(Config& config, const RunOptions& options, RunParts& parts) {
  parts.model = build_model(config);
  try {
    parts.model->to(options.device);
  } catch (const c10::Error& error) {
    config.child("model").fail("", "must fit on the device, but LibTorch says: " +
                                       std::string(error.what_without_backtrace()) +
                                       "; make the model smaller");
  }
}

std::unique_ptr<OptimWrapperDict> make_dict(const std::vector<WrapperParts>& wrappers) {
  std::vector<OptimWrapperDict::NamedWrapper> named;
  named.reserve(wrappers.size());
  for (const auto& parts : wrappers) named.emplace_back(parts.name, parts.wrapper);
  return std::make_unique<OptimWrapperDict>(named);
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

/// The loader, the metrics and the precision of the first of two pairs of keys that is there; the
/// other pair is another command's.
void read_evaluation(Config& config, const char* first, const char* second, c10::Device device,
                     RunParts& parts, const dist::ProcessGroup* group = nullptr) {
  const auto key = [](const char* kind, const char* part) { return std::string(kind) + part; };
  const auto read = [&](const char* part, const auto& use) {
    const auto wanted = key(first, part);
    const auto other = key(second, part);
    const bool has_first = config.has(wanted);
    use(has_first ? wanted : other);
    if (has_first) config.ignore(other);
  };
  read("_evaluator", [&](const std::string& name) {
    if (config.has(name)) parts.evaluator = read_evaluator(config, name.c_str());
  });
  read("_dataloader", [&](const std::string& name) {
    if (auto loader = config.child_if(name))
      parts.test_loader =
          read_loader(*loader, parts.seed, parts.evaluator.can_reduce() ? group : nullptr);
  });
  read("_cfg", [&](const std::string& name) {
    auto optim_wrapper = config.child("optim_wrapper");
    const auto loop = config.child_if(name);
    if (!parts.test_loader && loop)
      config.fail(name,
                  "must stand beside data to evaluate on (val_dataloader or test_dataloader)");
    if (parts.test_loader)
      parts.evaluation =
          EvaluationPrecision::read(loop, name, optim_wrapper, parts.wrappers, device);
  });
}

void ignore_training(Config& config) {
  for (const char* key :
       {"randomness", "param_scheduler", "train_cfg", "default_hooks", "custom_hooks",
        "log_processor", "load_from", "train_dataloader", "auto_scale_lr", "env_cfg",
        "model_wrapper_cfg", "find_unused_parameters"})
    config.ignore(key);
}

}  // namespace

OptimWrapperBase& RunParts::optim_wrapper() const {
  if (dict) return *dict;
  return *wrappers.front().wrapper;
}

uint64_t rank_seed(const RunParts& parts, int rank) {
  return parts.seed + (parts.diff_rank_seed ? static_cast<uint64_t>(rank) : 0);
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
  parts.wrappers =
      build_wrappers(optim_wrapper, *parts.model, options.device, options.amp, options.group);
  if (!parts.wrappers.front().name.empty()) parts.dict = make_dict(parts.wrappers);
  read_loop(config, parts);
  parts.train_loader = read_loader(config.child("train_dataloader"), parts.seed, options.group);
  parts.auto_scales_lr = scale_rates(config, options.auto_scale_lr,
                                     parts.train_loader->total_batch_size(), parts.wrappers);
  parts.ddp = read_ddp_options(config);
  // For its keys: whoever joined the processes has read it.
  dist::ProcessGroupOptions joined;
  read_dist_cfg(config, joined);
  convert_to_iter_based(config, parts.train_loader->num_batches(),
                        parts.wrappers.front().wrapper->accumulative_counts(),
                        parts.wrappers.size() > 1);
  build_schedulers(config, parts.loop.by_epoch, parts.wrappers);
  read_hooks(config, parts);
  read_evaluation(config, "val", "test", options.device, parts, options.group);
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
  parts.wrappers =
      read_wrappers_for_testing(optim_wrapper, *parts.model, options.device, options.amp);
  ignore_training(config);
  if (!config.has("val_dataloader")) config.child("test_dataloader");
  read_evaluation(config, "test", "val", options.device, parts);
  config.finish();
  return parts;
}

RunParts build_inference(Config& config, const RunOptions& options) {
  RunParts parts;
  apply_older_keys(config);
  read_model(config, options, parts);
  auto optim_wrapper = config.child("optim_wrapper");
  parts.wrappers =
      read_wrappers_for_testing(optim_wrapper, *parts.model, options.device, options.amp);
  const std::string loop = config.has("test_cfg") ? "test_cfg" : "val_cfg";
  parts.evaluation = EvaluationPrecision::read(config.child_if(loop), loop, optim_wrapper,
                                               parts.wrappers, options.device);
  ignore_training(config);
  for (const char* kind : {"val", "test"})
    for (const char* part : {"_cfg", "_dataloader", "_evaluator"})
      config.ignore(std::string(kind) + part);
  config.finish();
  return parts;
}

}  // namespace halfstep::train
