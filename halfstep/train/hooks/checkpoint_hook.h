#pragma once
#include "halfstep/train/config/config.h"
#include "halfstep/train/hooks/best_checkpoint.h"
#include "halfstep/train/hooks/hook.h"

#include <cstdint>
#include <string>
#include <vector>

namespace halfstep::train {

/// Saves a checkpoint every `interval` epochs (default 1) or, with `by_epoch: false`, steps
/// (default 1000), from `save_begin` on (default 0); every `step_interval` steps besides (default
/// 0: none); at the end (`save_last`); and after a validation whose results are the best so far
/// (`save_best`, `rule`). An epoch's checkpoint waits for the epoch's validation. Of the
/// checkpoints that are not best ones, removes the oldest beyond `max_keep` (default 2, 0 keeps
/// all; MMEngine's `max_keep_ckpts`, with -1 for all, is the same) once the new one is on disk.
/// With `published_keys` (state_dict: the model's tensors; meta: progress, settings, environment)
/// it writes at the end a copy with those alone of the last (`save_last`) and of each best
/// checkpoint, as published_NAME.safetensors: what `halfstep test` and load_from need. Difference
/// from MMEngine, whose copy's name ends with a part of its hash.
class CheckpointHook : public Hook {
 public:
  /// From its entry of the config. Throws UsageError for a value out of range.
  explicit CheckpointHook(Config& config);

  int64_t priority() const override { return priority::very_low; }
  void before_run(Trainer& trainer) override;
  void after_train_iter(Trainer& trainer, const Batch& batch) override;
  void after_train_epoch(Trainer& trainer) override;
  void after_val_epoch(Trainer& trainer, const Metrics& metrics) override;
  void after_save_checkpoint(Trainer& trainer, const std::filesystem::path& file) override;
  void after_run(Trainer& trainer) override;
  nlohmann::json state() const override;
  void load_state(const nlohmann::json& state) override;

 private:
  bool due(int64_t done) const;
  void publish(const std::filesystem::path& file) const;
  void remove_old(const Trainer& trainer, const std::filesystem::path& newest) const;

  bool by_epoch_;
  int64_t interval_;
  int64_t save_begin_;
  int64_t step_interval_;
  int64_t max_keep_;
  bool save_last_;
  std::vector<std::string> published_keys_;
  BestCheckpoint best_;
  std::vector<BestCheckpoint::Change> changes_;  // on their way to the disk
};

}  // namespace halfstep::train
