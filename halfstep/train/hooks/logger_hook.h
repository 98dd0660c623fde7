#pragma once
#include "halfstep/train/config/config.h"
#include "halfstep/train/hooks/hook.h"
#include "halfstep/train/hooks/json_log.h"
#include "halfstep/train/hooks/log_processor.h"
#include "halfstep/train/hooks/progress_bar.h"

#include <optional>
#include <string>
#include <vector>

namespace halfstep::train {

/// Tells how the run goes: a bar on a terminal, else a line every `interval` batches (default 200)
/// and, unless `ignore_last` (default true) and there were others, after an epoch's last batch. The
/// same numbers go to the work dir's vis_data/scalars.json, in MMEngine's form, and log.jsonl,
/// which also has a line for each skipped step. Only reporting reads the loss, so only then a CUDA
/// step waits for the device.
class LoggerHook : public Hook {
 public:
  /// From its entry of the config. Throws UsageError for a value out of range.
  explicit LoggerHook(Config& config);

  int64_t priority() const override { return priority::below_normal; }
  void before_run(Trainer& trainer) override;
  void after_outcome(Trainer& trainer, const StepResult& result) override;
  void after_train_iter(Trainer& trainer, const Batch& batch) override;
  void after_train_epoch(Trainer& trainer) override;
  void after_val_iter(Trainer& trainer, int64_t number, const Batch& batch) override;
  void after_val_epoch(Trainer& trainer, const Metrics& metrics) override;
  void after_run(Trainer& trainer) override;
  void on_exception(Trainer& trainer, const std::exception& error) override;

 private:
  void print(const std::string& line);
  bool writes(const Trainer& trainer) const;
  std::vector<std::string> bar_fields(const Trainer& trainer) const;
  void draw(const Trainer& trainer);
  void write_log(const Trainer& trainer, const char* event, bool validated);

  int64_t interval_;
  bool ignore_last_;
  std::optional<JsonLog> log_;
  std::optional<JsonLog> scalars_;
  std::optional<ProgressBar> bar_;
};

}  // namespace halfstep::train
