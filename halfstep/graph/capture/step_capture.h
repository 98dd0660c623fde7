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
  /// `parameters` are those that get gradients, in the program's order. Optimizers and scaler must
  /// outlive it; null: no scaler.
  StepCapture(const std::vector<SteppedOptimizer>& optimizers, GradScaler* scaler,
              std::vector<at::Tensor> parameters, c10::Device device);

  /// Why it can't be captured or launched now, as a clause; empty where it can.
  std::string why_not() const;

  /// Brings learning rates to the device: before a capture and each launch.
  void prepare() const;

  /// Takes note of what the capture that comes next will go on with. Whether that is the same
  /// still: else what was captured must not be launched.
  void remember() { facts_ = facts(); }
  bool is_outdated() const { return facts_ != facts(); }

  /// In the capture: the device's half. Throws where an optimizer has yet to make a state, or what
  /// an op throws; the scaler and gradients are then as before.
  void queue(const std::vector<at::Tensor>& gradients);

  /// Lets the tensors of the capture go.
  void forget();

  /// After each launch: the host's half. What it hands on, others may keep.
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
  Facts facts_;
  std::vector<at::Tensor> gradients_;  // of the capture
  OptimizerSteps::Queued queued_;
  std::vector<at::Tensor> norms_;  // of each optimizer's gradients; undefined without clip_norm
};

}  // namespace halfstep::detail
