#pragma once
#include <torch/nn/module.h>

namespace halfstep::train {

/// What the trainer trains: a LibTorch module with one forward.
class Model : public torch::nn::Module {
 public:
  using torch::nn::Module::Module;

  /// Batch of inputs (first dimension: examples) on the model's device → outputs, as the loss takes
  /// them.
  virtual torch::Tensor forward(const torch::Tensor& input) = 0;
};

}  // namespace halfstep::train
