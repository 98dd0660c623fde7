#pragma once
#include "halfstep/optim/lr_scheduler.h"
#include "halfstep/scaling/grad_scaler.h"

#include <optional>
#include <vector>

#include <torch/optim/optimizer.h>

namespace halfstep::detail {

/// An optimizer of a graph, and its schedule or null.
struct SteppedOptimizer {
  torch::optim::Optimizer* optimizer;
  optim::LRScheduler* scheduler;
};

/// The end of a training step: what is done with its gradients. In two halves, because a CUDA graph
/// can hold the first one.
class OptimizerSteps {
 public:
  /// `scaler` is null where there is none. Both must outlive it.
  OptimizerSteps(const std::vector<SteppedOptimizer>& optimizers, GradScaler* scaler)
      : optimizers_(optimizers), scaler_(scaler) {}

  /// What the device was given.
  struct Queued {
    std::vector<StepResult> results;  // of each optimizer
    std::optional<GradScaler::QueuedUpdate> update;
  };

  /// Steps the optimizers in their order, by the scaler where there is one, and updates the scale.
  Queued queue() const;

  /// Writes the scaler's history, advances the schedules of steps that were taken, and takes the
  /// gradients away, also where one of these throws.
  void note(const Queued& queued) const;

 private:
  void take_gradients_away() const;

  const std::vector<SteppedOptimizer>& optimizers_;
  GradScaler* scaler_;
};

}  // namespace halfstep::detail
