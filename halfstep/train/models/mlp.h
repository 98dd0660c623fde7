#pragma once
#include "halfstep/nn/linear.h"
#include "halfstep/train/config/config.h"
#include "halfstep/train/models/model.h"

#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace halfstep::train {

/// Fully connected layers fc1, fc2, … with an activation between them: scores, no softmax at the
/// end.
///
/// Parameters are named fc1.weight, fc1.bias, … and start as LibTorch's (and Python's) nn.Linear
/// does, so a state dict of the same network in Python fits.
class Mlp : public Model {
 public:
  /// Sizes of the network.
  struct Options {
    std::vector<int64_t> sizes{784, 256, 10};  ///< Inputs, hidden layers, outputs.
    std::string activation = "relu";           ///< relu, gelu (exact), silu, tanh or sigmoid.
  };

  /// Throws UsageError for fewer than two sizes, a size below 1 or an unknown activation.
  explicit Mlp(const Options& options);

  /// (n, ...) with sizes[0] numbers an example → (n, sizes.back()). Throws UsageError for another
  /// number.
  torch::Tensor forward(const torch::Tensor& input) override;

 private:
  int64_t inputs_;
  std::function<torch::Tensor(const torch::Tensor&)> activation_;
  std::vector<nn::Linear> layers_;
};

/// Builds an Mlp from a config with the keys sizes and activation.
std::shared_ptr<Model> make_mlp(Config& config);

}  // namespace halfstep::train
