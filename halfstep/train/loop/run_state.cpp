#include "halfstep/train/loop/run_state.h"

#include "halfstep/core/error.h"
#include "halfstep/core/version.h"
#include "halfstep/train/files/module_state.h"
#include "halfstep/train/files/rng_state.h"
#include "halfstep/train/loop/auto_scale_lr.h"
#include "halfstep/train/loop/rank_state.h"
#include "halfstep/train/loop/settings.h"
#include "halfstep/train/loop/trainer.h"
#include "halfstep/train/loop/wrapper_state.h"
#include "halfstep/train/weights/load_weights.h"

#include <algorithm>
#include <iostream>
#include <typeinfo>
#include <utility>

#include <ATen/Parallel.h>
#include <c10/util/Type.h>

namespace halfstep::train {

namespace {

// A hook is known by its class, and by its place among those of its class.
std::string class_name(const Hook& hook) {
  return c10::demangle(typeid(hook).name());
}

nlohmann::json hooks_to_json(const RunParts& parts) {
  auto result = nlohmann::json::array();
  parts.hooks.for_each([&](const Hook& hook) {
    const auto state = hook.state();
    if (!state.is_null()) result.push_back({{"class", class_name(hook)}, {"state", state}});
  });
  return result;
}

void load_hooks(const RunParts& parts, const nlohmann::json& saved,
                const std::filesystem::path& source) {
  std::vector<Hook*> left;
  parts.hooks.for_each([&](Hook& hook) { left.push_back(&hook); });
  for (const auto& item : saved) {
    const auto wanted = item.at("class").get<std::string>();
    const auto hook = std::find_if(left.begin(), left.end(),
                                   [&](Hook* each) { return class_name(*each) == wanted; });
    HALFSTEP_CHECK_USAGE(hook != left.end(), "resume", "'", source.string(),
                         "' holds the state of a hook ", wanted,
                         ", which the run must have, but has not; restore custom_hooks in the "
                         "config, or start anew without --resume");
    (*hook)->load_state(item.at("state"));
    left.erase(hook);
  }
}

void check_same_data(const Trainer& trainer, const nlohmann::json& data,
                     const std::filesystem::path& source) {
  const auto here = trainer.parts().train_loader->dataset().size();
  const auto there = data.at("examples").get<int64_t>();
  HALFSTEP_CHECK_USAGE(there == here, "resume",
                       "a run goes on with the data it began with, but got ", here,
                       " examples where '", source.string(), "' was written for ", there,
                       "; restore the data, or start anew without --resume");
}

/// Of a run with that many batches an epoch, unless its layout has changed on the way.
Progress read_progress(const nlohmann::json& json, const RankLayout& layout,
                       const std::filesystem::path& source) {
  const auto progress = json.get<Progress>();
  const auto batches = layout.batches;
  const bool possible =
      progress.epoch >= 0 && progress.epoch <= progress.step && progress.batch >= 0 &&
      progress.batch <= batches &&
      (layout.changed || progress.step == progress.epoch * batches + progress.batch) &&
      progress.skipped_steps >= 0 && progress.skipped_steps <= progress.step;
  HALFSTEP_CHECK_ENVIRONMENT(possible, "resume", "'", source.string(), "' must say where a run of ",
                             batches, " batches an epoch stands, but says ", json.dump(),
                             "; the file is damaged: take another checkpoint");
  return progress;
}

/// The settings a checkpoint was written with; another number of ranks may have another batch_size.
nlohmann::json settings_of(const nlohmann::json& state, const RankLayout& then,
                           const RankLayout& now) {
  auto settings = state.at("settings");
  if (then.ranks != now.ranks) settings["train_dataloader"]["batch_size"] = now.batch_size;
  return settings;
}

void warn_where_bits_may_differ(const Trainer& trainer, const nlohmann::json& environment) {
  const auto before = environment.at("device").get<std::string>() + ", " +
                      environment.at("dtype").get<std::string>();
  const auto now = c10::DeviceTypeName(trainer.device().type(), true) + ", " +
                   describe_dtypes(trainer.parts().wrappers);
  if (before != now)
    std::cerr << "warning: the checkpoint was written on " << before << ", this run computes on "
              << now << ": it goes on, but not with the same bits as an unbroken run\n";
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
  const std::string_view message = error.what();
  // After its own place: "[json.exception.out_of_range.403] ".
  halfstep::detail::raise<EnvironmentError>(
      "resume", "'", source.string(), "' must hold the state of a training run, but ",
      message.substr(message.find("] ") + 2), "; take another checkpoint");
}

}  // namespace

Checkpoint collect_state(const Trainer& trainer) {
  Checkpoint checkpoint;
  const auto& parts = trainer.parts();
  save_module(*parts.model, checkpoint);
  collect_wrappers(trainer, checkpoint);
  save_rng(checkpoint);
  collect_rank_state(trainer, checkpoint);
  checkpoint.state["progress"] = trainer.progress();
  checkpoint.state["seed"] = parts.seed;
  const auto& loader = *parts.train_loader;
  checkpoint.state["data"] = {{"examples", loader.dataset().size()}};
  checkpoint.state["hooks"] = hooks_to_json(parts);
  checkpoint.state["settings"] = parts.settings;
  checkpoint.state["environment"] = {{"torch", torch_version()},
                                     {"threads", at::get_num_threads()},
                                     {"device", c10::DeviceTypeName(trainer.device().type(), true)},
                                     {"dtype", describe_dtypes(parts.wrappers)}};
  return checkpoint;
}

std::optional<ResumePoint> find_resume_point(const RunOptions& options,
                                             const std::filesystem::path& load_from) {
  if (!options.resume) return std::nullopt;
  auto source = options.resume_from;
  if (source.empty()) {
    const auto files = list_checkpoints(options.work_dir);
    if (!files.empty())
      source = files.back();
    else if (!load_from.empty() && is_checkpoint(load_from))
      source = load_from;
    if (source.empty()) return std::nullopt;
  }
  ResumePoint point{source, Checkpoint::load(source), 0};
  guard_state(source, [&] { point.checkpoint.state.at("seed").get_to(point.seed); });
  return point;
}

void load_initial_weights(Trainer& trainer, const std::filesystem::path& file) {
  auto checkpoint = read_as_checkpoint(file);
  const auto& parts = trainer.parts();
  parts.hooks.for_each([&](Hook& hook) { hook.after_load_checkpoint(trainer, checkpoint); });
  const auto report =
      load_weights(*parts.model, model_tensors(checkpoint), file.string(), {.strict = false});
  HALFSTEP_CHECK_USAGE(report.loaded > 0, "load_from", "'", file.string(),
                       "' must have weights of this model, but none of its names and shapes fits; "
                       "check load_from and model");
  for (const auto& [names, what] :
       {std::pair(&report.missing, "are not in it and keep their initial values"),
        std::pair(&report.reshaped, "have another shape in it and keep their initial values"),
        std::pair(&report.unexpected, "of it are not in the model"),
        std::pair(&report.converted, "were converted")})
    if (!names->empty())
      std::cerr << "warning: load_from '" << file.string() << "': " << detail::first_few(*names)
                << " " << what << "\n";
}

void restore_state(Trainer& trainer, ResumePoint& from) {
  const auto& source = from.source;
  auto& checkpoint = from.checkpoint;
  const auto& state = checkpoint.state;
  guard_state(source, [&] {
    auto& parts = trainer.parts();
    const auto now = layout_of(trainer);
    const auto then = layout_of(state, parts.train_loader->options().drop_last);
    check_same_settings(settings_of(state, then, now), parts.settings, source);
    check_same_data(trainer, state.at("data"), source);
    const auto saved = read_progress(state.at("progress"), then, source);
    const auto progress = translate(saved, then, now, source);
    if (then.changed || then.examples_in_a_step() != now.examples_in_a_step())
      trainer.set_ranks_changed();
    restore_fall_backs(trainer, state);
    warn_where_bits_may_differ(trainer, state.at("environment"));
    load_hooks(parts, state.at("hooks"), source);
    parts.hooks.for_each([&](Hook& hook) { hook.after_load_checkpoint(trainer, checkpoint); });
    load_module(checkpoint, *parts.model);
    restore_wrappers(trainer, checkpoint);
    if (parts.auto_scales_lr && then.ranks != now.ranks)
      multiply_rates(parts.wrappers, static_cast<double>(now.examples_in_a_step()) /
                                         static_cast<double>(then.examples_in_a_step()));
    trainer.progress() = progress;
    load_rng(checkpoint);
    restore_rank_state(trainer, checkpoint);
  });
}

}  // namespace halfstep::train
