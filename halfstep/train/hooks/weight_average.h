#pragma once
#include "halfstep/train/config/config.h"

#include <cstdint>
#include <string>
#include <vector>

#include <torch/nn/module.h>

namespace halfstep::train {

/// Averages of a model's weights over the course of training, in MMEngine's three kinds:
///
///   ExponentialMovingAverage   average += momentum · (weight − average)
///   MomentumAnnealingEMA       the same with max(momentum, gamma / (gamma + updates))
///   StochasticWeightAverage    the mean of all weights seen
///
/// The first update copies the weights. Averages of 16-bit weights are kept in float32, where they
/// do not stand still. Buffers are averaged only with `update_buffers` (and where they are floating
/// point), else the model's own are used. Lives on the model's device; never syncs.
class WeightAverage {
 public:
  /// Keys: ema_type (ExponentialMovingAverage), momentum (0.0002), gamma (100), interval (1: every
  /// update), update_buffers (false). Throws UsageError with file and line.
  explicit WeightAverage(Config& config);

  /// Takes the names and present values of a model's weights; it must outlive this object.
  void watch(torch::nn::Module& model);

  /// Counts an iteration, and takes the weights into the averages where it is its turn.
  void update();
  /// Makes the averages the present weights (before the averaging begins).
  void copy();

  /// Puts the averages into the model, and its own weights back, to the bit.
  void swap_in();
  void swap_out();

  /// One averaged tensor.
  struct Item {
    std::string name;   ///< as in the model
    at::Tensor weight;  ///< the model's own
    at::Tensor average;
    at::Tensor own;  ///< the model's own values while the averages are in their place
  };
  /// Every averaged tensor, in the model's order.
  std::vector<Item>& items() { return items_; }

  /// How many iterations were counted; a checkpoint holds it.
  int64_t updates() const { return updates_; }
  void set_updates(int64_t updates) { updates_ = updates; }

 private:
  enum class Kind { exponential, annealing, stochastic };

  Kind kind_ = Kind::exponential;
  double momentum_ = 0.0002;
  int64_t gamma_ = 100;
  int64_t interval_ = 1;
  bool update_buffers_ = false;
  std::vector<Item> items_;
  int64_t updates_ = 0;
};

}  // namespace halfstep::train
