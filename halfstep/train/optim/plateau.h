#pragma once
#include "halfstep/train/config/config.h"
#include "halfstep/train/hooks/metric_rule.h"
#include "halfstep/train/metrics/metric.h"

#include <cstdint>
#include <optional>
#include <string>

#include <nlohmann/json.hpp>

namespace halfstep::train {

/// When a result of the validations has got no better for too long, and what is made of a learning
/// rate then: MMEngine's ReduceOnPlateauLR, with its keys and defaults. A result is better where it
/// passes the best one by `threshold` (1e-4) of it (`threshold_rule: rel`), or in itself (abs); the
/// rate is multiplied by `factor` (0.1) once more than `patience` (10) validations in a row were
/// not, but for the `cooldown` (0) validations after the last time, down to `min_value` (0), and
/// left alone where that changes it by no more than `eps` (1e-8).
///
/// Difference from MMEngine, which passes over a validation without the result `monitor` (loss) in
/// silence: that is an error.
class Plateau {
 public:
  /// Throws UsageError with file and line.
  explicit Plateau(Config& config);

  /// Takes the results of one validation; true where rates are to be reduced. Throws UsageError
  /// where `monitor` is not among them.
  bool update(const Metrics& metrics);

  /// What becomes of a rate then.
  double reduced(double rate) const;

  /// What a resumed run needs: the best result so far and the counters.
  nlohmann::json state() const;
  void load_state(const nlohmann::json& state);

 private:
  bool is_better(double value) const;

  std::string monitor_;
  MetricRule rule_ = MetricRule::less;
  double factor_;
  int64_t patience_;
  double threshold_;
  bool relative_;
  int64_t cooldown_;
  double min_value_;
  double eps_;

  std::optional<double> best_;
  int64_t waited_ = 0;
  int64_t cooling_ = 0;
};

}  // namespace halfstep::train
