#pragma once
#include "halfstep/train/config/config.h"
#include "halfstep/train/hooks/hook.h"
#include "halfstep/train/hooks/metric_rule.h"

#include <cstdint>
#include <optional>
#include <string>

namespace halfstep::train {

/// Stops the run once a result of the validations gets no better, in MMEngine's words: `monitor`
/// must improve by `min_delta` (0.1) within `patience` (5) validations. Stops at once where it is
/// not finite (`check_finite`, true) or passes `stopping_threshold` (none). `rule` (greater, less)
/// is guessed from the name where it is missing; a validation without the result is an error where
/// `strict` (false), else a warning.
///
///   custom_hooks: [{type: EarlyStoppingHook, monitor: accuracy, min_delta: 0.001, patience: 3}]
///
/// Differences from MMEngine: its state is in the checkpoints, so that a resumed run stops where
/// the unbroken one does, and a run that it stopped stays stopped until `patience` is raised or the
/// hook is taken out.
class EarlyStoppingHook : public Hook {
 public:
  /// From its entry of the config. Throws UsageError for a value out of range.
  explicit EarlyStoppingHook(Config& config);

  int64_t priority() const override { return priority::lowest; }
  void before_run(Trainer& trainer) override;
  void after_val_epoch(Trainer& trainer, const Metrics& metrics) override;
  nlohmann::json state() const override;
  void load_state(const nlohmann::json& state) override;

  /// Why a run must stop, or an empty text; takes the value into account.
  std::string check(double value);

 private:
  std::string monitor_;
  MetricRule rule_ = MetricRule::greater;
  double min_delta_;
  bool strict_;
  bool check_finite_;
  int64_t patience_;
  std::optional<double> threshold_;

  std::optional<double> best_;
  int64_t waited_ = 0;
  std::string stopped_by_;  // finite, threshold or patience
};

}  // namespace halfstep::train
