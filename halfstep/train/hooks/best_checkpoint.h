#pragma once
#include "halfstep/train/config/config.h"
#include "halfstep/train/hooks/metric_rule.h"
#include "halfstep/train/metrics/metric.h"

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace halfstep::train {

/// Which checkpoints were the best so far, by `save_best` (auto: the first result of the first
/// validation; a metric's name, or a list of those) and `rule` (greater or less, one for all or one
/// for each; guessed from the name where it is missing).
class BestCheckpoint {
 public:
  /// Reads both keys. Throws UsageError with file and line where a rule can't be guessed.
  explicit BestCheckpoint(Config& config);

  /// A file that is the best now, and the one it takes the place of, if any.
  struct Change {
    std::string metric;
    double score = 0;
    std::string file;
    std::string old_file;
  };

  /// Takes the results after step `step`. Throws UsageError for a metric that is not among them.
  std::vector<Change> update(const Metrics& metrics, int64_t step);

  /// Scores and names of files.
  nlohmann::json state() const;
  void load_state(const nlohmann::json& state);

 private:
  struct Entry {
    std::string metric;
    std::optional<MetricRule> rule;
    std::optional<double> score = std::nullopt;
    std::string file;
  };
  std::vector<Entry> entries_;
  bool auto_ = false;
};

}  // namespace halfstep::train
