#pragma once
#include "halfstep/train/config/config.h"
#include "halfstep/train/models/model.h"

#include <memory>

#include <torch/nn/modules/container/sequential.h>

namespace halfstep::train {

/// DCGAN's generator: a transposed convolution makes images of input_scale from the noise, and each
/// further one (4×4, stride 2) doubles them up to output_scale; batch norm and ReLU between, tanh
/// at the end. Weights start from N(0, 0.02), those of norms from N(1, 0.02).
class DcganGenerator : public Model {
 public:
  /// Sizes of the network.
  struct Options {
    int64_t output_scale = 28;   ///< side of the images: input_scale times a power of two
    int64_t input_scale = 7;     ///< side of the first ones
    int64_t out_channels = 1;    ///< of the images
    int64_t base_channels = 64;  ///< of the first ones; each doubling of the side halves them
    int64_t noise_size = 64;
  };

  /// Throws UsageError for an option out of range.
  explicit DcganGenerator(const Options& options);

  /// (n, noise_size) → (n, out_channels, output_scale, output_scale) in (-1, 1). Throws UsageError
  /// for another shape.
  torch::Tensor forward(const torch::Tensor& noise) override;

 private:
  Options options_;
  torch::nn::Sequential layers_{nullptr};
};

/// DCGAN's discriminator: convolutions (4×4, stride 2) halve the images from input_scale down to
/// output_scale, with batch norm but in the first, and leaky ReLU (0.2) between; the last one looks
/// at all that is left. Weights start as the generator's.
class DcganDiscriminator : public Model {
 public:
  /// Sizes of the network.
  struct Options {
    int64_t input_scale = 28;    ///< side of the images: output_scale times a power of two
    int64_t output_scale = 7;    ///< side of the last ones
    int64_t in_channels = 1;     ///< of the images
    int64_t base_channels = 32;  ///< after the first convolution; each further one doubles them
  };

  /// Throws UsageError for an option out of range.
  explicit DcganDiscriminator(const Options& options);

  /// (n, in_channels, input_scale, input_scale) → (n, 1), scores (no sigmoid). Throws UsageError
  /// for another shape.
  torch::Tensor forward(const torch::Tensor& images) override;

 private:
  Options options_;
  torch::nn::Sequential layers_{nullptr};
};

/// Keys: the options' names.
std::shared_ptr<Model> make_dcgan_generator(Config& config);
std::shared_ptr<Model> make_dcgan_discriminator(Config& config);

}  // namespace halfstep::train
