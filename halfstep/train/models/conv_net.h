#pragma once
#include "halfstep/nn/linear.h"
#include "halfstep/train/config/config.h"
#include "halfstep/train/models/model.h"

#include <memory>
#include <vector>

#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/dropout.h>

namespace halfstep::train {

/// A small convolutional classifier: for each entry of `channels` a 3×3 convolution (padding 1), a
/// batch norm, ReLU and a 2×2 max pool; then dropout and one linear layer: scores, no softmax.
///
/// Parameters are named conv1.weight, bn1.weight, …, fc.weight, fc.bias and start as LibTorch's
/// (and Python's) do.
class ConvNet : public Model {
 public:
  /// Sizes of the network.
  struct Options {
    int64_t in_channels = 1;                ///< Of the images.
    int64_t image_size = 28;                ///< Height and width of the images.
    std::vector<int64_t> channels{16, 32};  ///< Output channels of the convolutions.
    double dropout = 0.25;                  ///< Share of features zeroed in training, in [0, 1).
    int64_t classes = 10;
  };

  /// Throws UsageError for an option out of range, or images that the pools shrink to nothing.
  explicit ConvNet(const Options& options);

  /// (n, in_channels, image_size, image_size) → (n, classes). Throws UsageError for another shape.
  torch::Tensor forward(const torch::Tensor& input) override;

 private:
  Options options_;
  std::vector<torch::nn::Conv2d> convs_;
  std::vector<torch::nn::BatchNorm2d> norms_;
  torch::nn::Dropout dropout_{nullptr};
  nn::Linear fc_{nullptr};
};

/// Builds a ConvNet from a config with the keys in_channels, image_size, channels, dropout and
/// classes.
std::shared_ptr<Model> make_conv_net(Config& config);

}  // namespace halfstep::train
