#include "halfstep/train/hooks/checkpoint_hook.h"

#include "halfstep/train/loop/trainer.h"

#include <algorithm>
#include <iostream>
#include <utility>

namespace halfstep::train {

namespace {

int64_t read_max_keep(Config& config) {
  constexpr int64_t fallback = 2;
  constexpr const char* mmengine_key = "max_keep_ckpts";
  if (!config.has(mmengine_key)) {
    const auto count = config.get<int64_t>("max_keep", fallback);
    if (count < 0) config.fail("max_keep", "must be a number of files, or 0 to keep all");
    return count;
  }
  if (config.has("max_keep")) config.fail(mmengine_key, "must be left out beside max_keep");
  const auto count = config.get<int64_t>(mmengine_key);
  if (count < -1 || count == 0)
    config.fail(mmengine_key, "must be a number of files, or -1 to keep all");
  return count == -1 ? 0 : count;
}

}  // namespace

CheckpointHook::CheckpointHook(Config& config)
    : by_epoch_(config.get<bool>("by_epoch", true)),
      interval_(config.get<int64_t>("interval", by_epoch_ ? 1 : 1000)),
      save_begin_(config.get<int64_t>("save_begin", 0)),
      step_interval_(config.get<int64_t>("step_interval", 0)),
      max_keep_(read_max_keep(config)),
      save_last_(config.get<bool>("save_last", true)),
      best_(config) {
  if (interval_ < 1 && interval_ != -1)
    config.fail("interval", "must be at least 1, or -1 for none");
  if (save_begin_ < 0) config.fail("save_begin", "must be at least 0");
  constexpr const char* published = "published_keys";
  if (config.has(published))
    published_keys_ = config.is_text(published) ? std::vector{config.get<std::string>(published)}
                                                : config.get<std::vector<std::string>>(published);
  bool has_weights = published_keys_.empty();
  for (const auto& key : published_keys_) {
    has_weights = has_weights || key == "state_dict";
    if (key != "state_dict" && key != "meta")
      config.fail(published,
                  "must be state_dict, or state_dict and meta (a checkpoint with everything stays "
                  "beside the published one)");
  }
  if (!has_weights) config.fail(published, "must have state_dict, the model's tensors");
  if (step_interval_ < 0)
    config.fail("step_interval", "must be a number of steps, or 0 for none between epochs");
}

void CheckpointHook::before_run(Trainer& trainer) {
  const auto state = best_.state();
  for (const auto& [metric, best] : state.items()) {
    const auto file = trainer.work_dir().checkpoint_folder() / best.at("file").get<std::string>();
    if (!std::filesystem::exists(file))
      std::cerr << "warning: the best checkpoint so far, '" << file.string()
                << "', is not there any more; the next one is saved once its " << metric
                << " is better than " << best.at("score") << "\n";
  }
}

bool CheckpointHook::due(int64_t done) const {
  return interval_ > 0 && done >= save_begin_ && (done - save_begin_) % interval_ == 0;
}

void CheckpointHook::after_train_iter(Trainer& trainer, const Batch&) {
  const auto step = trainer.progress().step;
  if ((!by_epoch_ && due(step)) || (step_interval_ > 0 && step % step_interval_ == 0))
    trainer.request_checkpoint();
}

void CheckpointHook::after_train_epoch(Trainer& trainer) {
  const auto& progress = trainer.progress();
  if (by_epoch_ && due(progress.epoch) && !progress.val_due) trainer.request_checkpoint();
}

void CheckpointHook::after_val_epoch(Trainer& trainer, const Metrics& metrics) {
  if (metrics.empty()) return;
  const auto& progress = trainer.progress();
  for (auto& change : best_.update(metrics, progress.step)) {
    trainer.request_checkpoint(change.file);
    changes_.push_back(std::move(change));
  }
  if (by_epoch_ && trainer.parts().loop.by_epoch && due(progress.epoch))
    trainer.request_checkpoint();
}

void CheckpointHook::after_save_checkpoint(Trainer& trainer, const std::filesystem::path& file) {
  std::error_code ignored;
  for (auto change = changes_.begin(); change != changes_.end();) {
    if (change->file != file.filename()) {
      ++change;
      continue;
    }
    if (!change->old_file.empty())
      std::filesystem::remove(file.parent_path() / change->old_file, ignored);
    change = changes_.erase(change);
  }
  remove_old(trainer, file);
}

void CheckpointHook::after_run(Trainer& trainer) {
  if (save_last_) trainer.save_checkpoint();
  if (published_keys_.empty()) return;
  if (save_last_) publish(trainer.last_saved());
  const auto state = best_.state();
  for (const auto& [metric, best] : state.items())
    publish(trainer.work_dir().checkpoint_folder() / best.at("file").get<std::string>());
}

void CheckpointHook::publish(const std::filesystem::path& file) const {
  if (!std::filesystem::exists(file)) return;  // before_run said so
  auto checkpoint = Checkpoint::load(file);
  std::erase_if(checkpoint.tensors,
                [](const auto& tensor) { return !tensor.first.starts_with("model."); });
  const auto state = std::exchange(checkpoint.state, nlohmann::json::object());
  if (std::find(published_keys_.begin(), published_keys_.end(), "meta") != published_keys_.end())
    for (const char* key : {"progress", "settings", "environment", "seed"})
      checkpoint.state[key] = state.at(key);
  checkpoint.save(file.parent_path() / ("published_" + file.filename().string()));
}

void CheckpointHook::remove_old(const Trainer& trainer, const std::filesystem::path& newest) const {
  if (max_keep_ == 0) return;
  auto files = trainer.work_dir().checkpoints();
  // A best one is none of them.
  if (std::erase(files, newest) == 0) return;
  // Only unlinking can fail here, and a file too many does no harm.
  for (size_t i = 0; i + static_cast<size_t>(max_keep_) <= files.size(); ++i) {
    std::error_code ignored;
    std::filesystem::remove(files[i], ignored);
  }
}

nlohmann::json CheckpointHook::state() const {
  const auto state = best_.state();
  return state.empty() ? nlohmann::json() : state;
}

void CheckpointHook::load_state(const nlohmann::json& state) {
  best_.load_state(state);
}

}  // namespace halfstep::train
