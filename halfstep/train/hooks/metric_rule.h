#pragma once
#include "halfstep/train/config/config.h"

#include <optional>
#include <string>

namespace halfstep::train {

/// Which of two values of a metric is the better one.
enum class MetricRule { greater, less };

/// Whether `value` is better than `than`; equal is not, nor is NaN.
inline bool is_better(MetricRule rule, double value, double than) {
  return rule == MetricRule::greater ? value > than : value < than;
}

/// MMEngine's guess from a metric's name, in any case: one that is, or else holds, acc, top, AR@,
/// auc, precision, mAP, mDice, mIoU, mAcc or aAcc is better greater, one that is or holds loss
/// less; nothing for others.
std::optional<MetricRule> guess_rule(const std::string& metric);

/// A rule's name, greater or less. Throws UsageError with the place of `key` for any other.
MetricRule parse_rule(Config& config, const char* key, const std::string& name);

}  // namespace halfstep::train
