#pragma once
#include "halfstep/train/data/loader.h"
#include "halfstep/train/loop/amp_settings.h"
#include "halfstep/train/metrics/evaluator.h"
#include "halfstep/train/registry/registry.h"

#include <functional>
#include <optional>

namespace halfstep::train {

/// What a pass over the data showed.
struct Evaluation {
  double loss = 0;  ///< mean over the examples
  /// Share of examples whose largest output is the target; of classification, where no metrics were
  /// chosen.
  std::optional<double> accuracy;
  /// All of it by name: the chosen metrics, or "accuracy"; then "loss", unless a metric has that
  /// name.
  Metrics metrics;
};

/// What may be done around the batches of an evaluation.
struct EvaluateOptions {
  /// Asked before each batch; nothing is returned where it said so.
  std::function<bool()> stop = {};
  /// Called with each batch, on the CPU, and its number from 0.
  std::function<void(int64_t, const Batch&)> before_batch = {};
  std::function<void(int64_t, const Batch&)> after_batch = {};
  /// Predictions are the model's test_step; else its val_step.
  bool testing = false;
  /// Of several ranks, where the loader gives this one its part of each batch: then all get the
  /// results over all examples. `stop` is asked as often on each.
  SumOverRanks sum_over_ranks = {};
};

/// Runs the model in evaluation mode, without gradients, over a whole loader, in autocast where
/// `amp` says so, and measures by `evaluator`, or, where that is empty, the accuracy of a
/// classification. Gives each submodule its own mode back, also where something throws. Syncs once
/// at the end.
std::optional<Evaluation> evaluate(BaseModel& model, Loader& loader, c10::Device device,
                                   const AmpSettings& amp, Evaluator& evaluator,
                                   const EvaluateOptions& options = {});

}  // namespace halfstep::train
