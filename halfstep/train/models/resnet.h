#pragma once
#include "halfstep/nn/linear.h"
#include "halfstep/train/config/config.h"
#include "halfstep/train/models/model.h"

#include <memory>

#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/conv.h>

namespace halfstep::train {

/// ResNet-18 for small images: the stem is one 3×3 convolution of stride 1 without a pool, so that
/// 28×28 pixels are 4×4 at the end; then eight residual blocks of `width` to 8 × `width` channels,
/// a mean over the pixels and one linear layer: scores, no softmax.
///
/// Parameters are named as in torchvision's ResNet-18: conv1.weight, bn1.weight, …,
/// layer2.0.downsample.0.weight, …, fc.bias; they start as LibTorch's (and Python's) layers do.
class ResNet18 : public Model {
 public:
  /// Sizes of the network.
  struct Options {
    int64_t in_channels = 1;  ///< Of the images.
    int64_t width = 64;       ///< Channels of the first two blocks; the others have 2, 4, 8 ×.
    int64_t classes = 10;
    bool channels_last = false;  ///< Hold weights, and compute, in the channels-last format.
  };

  /// Throws UsageError for an option out of range.
  explicit ResNet18(const Options& options);

  /// (n, in_channels, height, width) → (n, classes). Throws UsageError for another number of
  /// dimensions or channels.
  torch::Tensor forward(const torch::Tensor& input) override;

 private:
  Options options_;
  torch::nn::Conv2d conv1_{nullptr};
  torch::nn::BatchNorm2d bn1_{nullptr};
  torch::nn::Sequential blocks_;
  nn::Linear fc_{nullptr};
};

/// Builds a ResNet18 from a config with the keys in_channels, width, classes and channels_last.
std::shared_ptr<Model> make_resnet18(Config& config);

}  // namespace halfstep::train
