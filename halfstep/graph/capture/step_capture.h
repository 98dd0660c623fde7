#pragma once
#include "halfstep/graph/optimizer_steps.h"
#include "halfstep/optim/fused_optimizer.h"

#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

namespace halfstep::detail {

/// The end of a training step as part of a capture: OptimizerSteps on the gradients that a launch
/// makes. Not for use by two threads at once.
class StepCapture {
 public:
  /// `parameters` are those that get gradients, undefined ones in the places of others. Optimizers
  /// and scaler must outlive it; null: no scaler. `never` is empty, or says as a clause why the
  /// graph can't have it captured.
  StepCapture(const std::vector<SteppedOptimizer>& optimizers, GradScaler* scaler,
              std::vector<at::Tensor> parameters, c10::Device device, std::string never);

  /// Why it can't be captured, as a clause, whatever the user does at later steps; empty where it
  /// can.
  std::string why_never() const;
  /// Why it can't be captured or launched at this step.
  std::string why_not_now() const;

  /// Brings learning rates to the device: before a capture and each launch.
  void write_rates() const;

  /// In the capture: the device's half. Where an op throws, scaler and gradients are as before.
  void queue(const std::vector<at::Tensor>& gradients);

  /// Whether what the host knows is no longer what was captured, so that it must not be launched.
  bool is_outdated() const;

  /// Lets the tensors of the capture go.
  void forget();

  /// After each launch: the host's half.
  void note() const;

 private:
  struct Facts {
    std::vector<optim::FusedOptimizer::CapturedFacts> optimizers;
    std::optional<ScaleRule> rule;
    bool checks_overflow = false;
    bool operator==(const Facts&) const = default;
  };
  Facts facts() const;

  OptimizerSteps steps_;
  const std::vector<SteppedOptimizer>& optimizers_;
  GradScaler* scaler_;
  std::vector<at::Tensor> parameters_;
  c10::Device device_;
  std::string never_;
  std::vector<at::Tensor> gradients_;  // of the capture; before it, some of their shapes
  Facts facts_;
  OptimizerSteps::Queued queued_;
  std::vector<at::Tensor> norms_;  // of each optimizer's gradients; undefined without clipping
};

}  // namespace halfstep::detail
