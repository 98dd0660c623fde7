#include "halfstep/train/loop/run_state.h"

#include "halfstep/core/error.h"
#include "halfstep/core/version.h"
#include "halfstep/train/files/module_state.h"
#include "halfstep/train/files/optimizer_state.h"
#include "halfstep/train/files/rng_state.h"
#include "halfstep/train/loop/trainer.h"

#include <iostream>

#include <ATen/Parallel.h>

namespace halfstep::train {

namespace {

nlohmann::json scaler_to_json(const GradScaler& scaler) {
  const auto state = scaler.state();
  if (!state) return nullptr;
  nlohmann::json json = {{"scale", state->scale},
                         {"growth_factor", state->growth_factor},
                         {"backoff_factor", state->backoff_factor},
                         {"growth_interval", state->growth_interval},
                         {"_growth_tracker", state->growth_tracker}};
  if (state->hysteresis_tracker) json["_hysteresis_tracker"] = *state->hysteresis_tracker;
  return json;
}

void load_scaler(GradScaler& scaler, const nlohmann::json& json,
                 const std::filesystem::path& source) {
  if (!scaler.is_enabled()) return;
  if (json.is_null()) {
    std::cerr << "warning: '" << source.string()
              << "' was written without a loss scale: it starts anew\n";
    return;
  }
  GradScalerState state;
  json.at("scale").get_to(state.scale);
  json.at("growth_factor").get_to(state.growth_factor);
  json.at("backoff_factor").get_to(state.backoff_factor);
  json.at("growth_interval").get_to(state.growth_interval);
  json.at("_growth_tracker").get_to(state.growth_tracker);
  if (json.contains("_hysteresis_tracker"))
    state.hysteresis_tracker = json.at("_hysteresis_tracker").get<int64_t>();
  scaler.load_state(state);
}

void load_schedulers(RunParts& parts, const nlohmann::json& steps,
                     const std::filesystem::path& source) {
  const size_t present = parts.lr_scheduler ? 1 : 0;
  HALFSTEP_CHECK_USAGE(steps.size() == present, "resume",
                       "a run goes on with the schedulers it began with (", steps.size(), " in '",
                       source.string(), "'), but got ", present,
                       "; restore param_scheduler in the config");
  if (parts.lr_scheduler) parts.lr_scheduler->set_steps(steps.at(0).get<int64_t>());
}

void check_same_data(const Trainer& trainer, const nlohmann::json& data,
                     const std::filesystem::path& source) {
  const auto& loader = *trainer.parts().train_loader;
  const auto examples = data.at("examples").get<int64_t>();
  const auto batch_size = data.at("batch_size").get<int64_t>();
  HALFSTEP_CHECK_USAGE(
      examples == loader.dataset().size() && batch_size == loader.options().batch_size, "resume",
      "a run goes on with the data it began with, but got ", loader.dataset().size(),
      " examples in batches of ", loader.options().batch_size, " where '", source.string(),
      "' was written for ", examples, " in batches of ", batch_size,
      "; restore the config, or start anew without --resume");
}

void warn_where_bits_may_differ(const nlohmann::json& environment) {
  const auto threads = environment.at("threads").get<int>();
  if (threads != at::get_num_threads())
    std::cerr << "warning: the checkpoint was written with " << threads << " threads, this run has "
              << at::get_num_threads()
              << ": it goes on, but not with the same bits as an unbroken run\n";
  const auto torch = environment.at("torch").get<std::string>();
  if (torch != torch_version())
    std::cerr << "warning: the checkpoint was written with LibTorch " << torch << ", this is "
              << torch_version()
              << ": the run goes on, but not with the same bits as an unbroken run\n";
}

/// Runs `read`, which takes a checkpoint's JSON apart: what is missing there is the file's fault.
template <class Read>
void guard_state(const std::filesystem::path& source, const Read& read) try {
  read();
} catch (const nlohmann::json::exception& error) {
  halfstep::detail::raise<EnvironmentError>("resume", "'", source.string(),
                                            "' must hold the state of a training run, but ",
                                            error.what(), "; take another checkpoint");
}

}  // namespace

Checkpoint collect_state(const Trainer& trainer) {
  Checkpoint checkpoint;
  const auto& parts = trainer.parts();
  save_module(*parts.model, checkpoint);
  save_optimizer(*parts.optimizer, parts.parameter_names, checkpoint);
  save_rng(checkpoint);
  checkpoint.state["progress"] = trainer.progress();
  checkpoint.state["seed"] = parts.seed;
  checkpoint.state["scaler"] = scaler_to_json(trainer.scaler());
  auto& schedulers = checkpoint.state["schedulers"] = nlohmann::json::array();
  if (parts.lr_scheduler) schedulers.push_back(parts.lr_scheduler->steps());
  const auto& loader = *parts.train_loader;
  checkpoint.state["data"] = {{"examples", loader.dataset().size()},
                              {"batch_size", loader.options().batch_size}};
  checkpoint.state["environment"] = {{"torch", torch_version()},
                                     {"threads", at::get_num_threads()}};
  return checkpoint;
}

std::optional<ResumePoint> find_resume_point(RunOptions& options) {
  if (!options.resume) return std::nullopt;
  auto source = options.resume_from;
  if (source.empty()) {
    const auto files = list_checkpoints(options.work_dir);
    if (files.empty()) return std::nullopt;
    source = files.back();
  }
  ResumePoint point{source, Checkpoint::load(source)};
  guard_state(source, [&] {
    const auto seed = point.checkpoint.state.at("seed").get<uint64_t>();
    HALFSTEP_CHECK_USAGE(!options.seed || *options.seed == seed, "resume",
                         "a run goes on with its own seed ", seed, ", but got --seed ",
                         *options.seed, "; leave --seed out");
    options.seed = seed;
  });
  return point;
}

void restore_state(Trainer& trainer, const ResumePoint& from) {
  const auto& source = from.source;
  const auto& checkpoint = from.checkpoint;
  const auto& state = checkpoint.state;
  guard_state(source, [&] {
    auto& parts = trainer.parts();
    check_same_data(trainer, state.at("data"), source);
    warn_where_bits_may_differ(state.at("environment"));
    load_module(checkpoint, *parts.model);
    load_optimizer(checkpoint, parts.parameter_names, *parts.optimizer);
    load_schedulers(parts, state.at("schedulers"), source);
    load_scaler(trainer.scaler(), state.at("scaler"), source);
    trainer.progress() = state.at("progress").get<Progress>();
    load_rng(checkpoint);
  });
}

}  // namespace halfstep::train
