#pragma once
#include "halfstep/scaling/grad_scaler.h"

#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/optimizer.h>

#include "tests/support/tolerance.h"

namespace halfstep::testing {

/// Two Linear(8, 8) and four batches, as in Python's scaling tests.
using Batches = std::vector<std::pair<at::Tensor, at::Tensor>>;
Batches make_batches(c10::Device device);
torch::nn::Sequential make_model(c10::Device device);

/// Equal parameters, copied.
torch::nn::Sequential twin_of(torch::nn::Sequential model, c10::Device device);

/// The weight of the second layer: the one that gets the inf.
at::Tensor second_weight(torch::nn::Sequential& model);

/// The batch whose gradients get an inf; the control run skips its step by hand.
constexpr int kSkipBatch = 2;

using MakeOptimizer =
    std::function<std::unique_ptr<torch::optim::Optimizer>(std::vector<at::Tensor>)>;
std::unique_ptr<torch::optim::Optimizer> make_sgd(std::vector<at::Tensor> parameters);

/// One of the two runs that must come out equal: with the scaler, or the control without.
struct TrainingRun {
  const Batches& batches;
  torch::nn::Sequential model;
  torch::optim::Optimizer& optimizer;
  GradScaler& scaler;
  bool scaling;

  at::Tensor loss_of(const std::pair<at::Tensor, at::Tensor>& batch) const;
  /// True in the batch whose step must be skipped: only where a scaler is at work.
  bool overflows_at(int batch) const { return scaler.is_enabled() && batch == kSkipBatch; }
};

struct ScalingCase {
  c10::Device device;
  std::function<void(TrainingRun&)> run;
  int grown = 0;          // updates that must have doubled the scale
  int backed_off = 0;     // and halved it
  bool same_bits = true;  // powers of two scale exactly; else within `tolerance`
  Tolerance tolerance{0, 0};
  MakeOptimizer make_optimizer = make_sgd;
};

/// Runs the control and the scaled training, with the scaler enabled and disabled, and expects
/// equal parameters, gradients and optimizer states, and the scale 128 * 2^grown * 0.5^backed_off.
void check_scaling_case(const ScalingCase& test);

}  // namespace halfstep::testing
