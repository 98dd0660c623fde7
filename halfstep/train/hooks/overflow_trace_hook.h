#pragma once
#include "halfstep/inspect/gradient_exponents.h"
#include "halfstep/inspect/overflow_finding.h"
#include "halfstep/train/config/config.h"
#include "halfstep/train/hooks/hook.h"
#include "halfstep/train/hooks/json_log.h"

#include <optional>
#include <utility>
#include <vector>

namespace halfstep::train {

/// `--trace-overflow`: tells of each step the first op whose result was inf or NaN
/// (inspect::OverflowTracer), in full where that place is new; at the end how often each place was
/// it, and how large gradients were in the last step that was looked at, every `interval` (100)
/// updates, with the loss scale they recommend. The same goes to log.jsonl, as `overflow` and
/// `gradient_exponents`. Steps take longer (half as much again in a small network on the CPU), and
/// wait for a GPU.
class OverflowTraceHook : public Hook {
 public:
  OverflowTraceHook() = default;
  /// Key: interval. Throws UsageError with file and line.
  explicit OverflowTraceHook(Config& config);

  void before_run(Trainer& trainer) override;
  void after_backward(Trainer& trainer) override;
  void after_train_iter(Trainer& trainer, const Batch& batch) override;
  void after_run(Trainer& trainer) override;

 private:
  void end_step(Trainer& trainer, int64_t step);
  void count_gradients(Trainer& trainer, int64_t step);

  /// Of one wrapper.
  struct Gradients {
    std::string whose;
    int64_t step = 0;
    double scale = 1;
    inspect::GradientExponents exponents;
  };

  int64_t interval_ = 100;
  bool is_active_ = false;
  int64_t last_found_ = 0;
  std::optional<JsonLog> log_;
  std::vector<std::pair<inspect::OverflowFinding, int64_t>> places_;  // and how many steps
  std::vector<Gradients> gradients_;
};

}  // namespace halfstep::train
