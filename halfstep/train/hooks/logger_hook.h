#pragma once
#include "halfstep/train/config/config.h"
#include "halfstep/train/hooks/hook.h"
#include "halfstep/train/hooks/json_log.h"
#include "halfstep/train/hooks/progress_bar.h"

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace halfstep::train {

/// Tells how the run goes: a bar on a terminal, else a line every `interval` batches (default 200),
/// and the same as JSON lines in the work dir's log.jsonl. Only reporting reads the loss, so only
/// then a CUDA step waits for the device.
class LoggerHook : public Hook {
 public:
  explicit LoggerHook(Config& config);

  void before_run(Trainer& trainer) override;
  void after_step(Trainer& trainer) override;
  void after_epoch(Trainer& trainer) override;
  void after_run(Trainer& trainer) override;

 private:
  using Clock = std::chrono::steady_clock;

  /// The text of speed and time left; empty before there are two steps to time.
  struct Speed {
    std::string samples;
    std::string eta;
  };

  double seconds_per_step() const;
  double samples_per_second(const Trainer& trainer) const;
  Speed speed(const Trainer& trainer) const;
  std::string numbers(const Trainer& trainer) const;
  std::vector<std::string> bar_fields(const Trainer& trainer) const;
  void write_log(const Trainer& trainer, const char* event);

  int64_t interval_;
  std::optional<JsonLog> log_;
  std::optional<ProgressBar> bar_;
  Clock::time_point start_;   // the end of the first step, which takes longer than others
  int64_t timed_steps_ = -1;  // since then
};

}  // namespace halfstep::train
