#include "halfstep/train/models/dcgan_networks.h"

#include "halfstep/core/error.h"

#include <functional>
#include <string>

#include <torch/nn/init.h>
#include <torch/nn/modules/activation.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/conv.h>

namespace halfstep::train {

namespace {

using torch::nn::BatchNorm2d, torch::nn::Conv2d, torch::nn::Conv2dOptions;
using torch::nn::ConvTranspose2d, torch::nn::ConvTranspose2dOptions;

/// Takes a key and the rule it breaks.
using Fail = std::function<void(const char*, const std::string&)>;

// How often a side doubles from `small` to `large`; -1 where it doesn't come out even.
int64_t doublings(int64_t small, int64_t large) {
  int64_t count = 0;
  for (; small < large; ++count) small *= 2;
  return small == large ? count : -1;
}

void check(const DcganGenerator::Options& o, const Fail& fail) {
  for (const auto& [key, value] : {std::pair("output_scale", o.output_scale),
                                   {"input_scale", o.input_scale},
                                   {"out_channels", o.out_channels},
                                   {"base_channels", o.base_channels},
                                   {"noise_size", o.noise_size}})
    if (value < 1) fail(key, "must be at least 1");
  const auto times = doublings(o.input_scale, o.output_scale);
  if (times < 1)
    fail("output_scale", "must be input_scale times 2, 4, 8, … (input_scale is " +
                             std::to_string(o.input_scale) + ")");
  if (o.base_channels >> (times - 1) < 1)
    fail("base_channels", "must be at least " + std::to_string(int64_t{1} << (times - 1)) +
                              ", as each doubling of the side halves them");
}

void check(const DcganDiscriminator::Options& o, const Fail& fail) {
  for (const auto& [key, value] : {std::pair("input_scale", o.input_scale),
                                   {"output_scale", o.output_scale},
                                   {"in_channels", o.in_channels},
                                   {"base_channels", o.base_channels}})
    if (value < 1) fail(key, "must be at least 1");
  if (doublings(o.output_scale, o.input_scale) < 1)
    fail("input_scale", "must be output_scale times 2, 4, 8, … (output_scale is " +
                            std::to_string(o.output_scale) + ")");
}

Fail fail_in(const char* where) {
  return [where](const char* key, const std::string& rule) {
    halfstep::detail::raise<UsageError>(where, key, " ", rule, ", but is not; change that option");
  };
}

Fail fail_in(Config& config) {
  return [&config](const char* key, const std::string& rule) { config.fail(key, rule); };
}

void initialize(torch::nn::Module& module) {
  if (auto* norm = module.as<torch::nn::BatchNorm2d>()) {
    torch::nn::init::normal_(norm->weight, 1, 0.02);
    torch::nn::init::zeros_(norm->bias);
    return;
  }
  for (auto& item : module.named_parameters(/*recurse=*/false)) {
    if (item.key() == "weight") torch::nn::init::normal_(item.value(), 0, 0.02);
    if (item.key() == "bias") torch::nn::init::zeros_(item.value());
  }
}

torch::nn::Sequential initialized(torch::nn::Sequential layers) {
  for (auto& layer : layers->children()) initialize(*layer);
  return layers;
}

}  // namespace

DcganGenerator::DcganGenerator(const Options& options) : options_(options) {
  check(options_, fail_in("DcganGenerator"));
  torch::nn::Sequential layers;
  int64_t channels = options_.base_channels;
  layers->push_back(ConvTranspose2d(
      ConvTranspose2dOptions(options_.noise_size, channels, options_.input_scale).bias(false)));
  for (int64_t side = options_.input_scale; side < options_.output_scale; side *= 2) {
    layers->push_back(BatchNorm2d(channels));
    layers->push_back(torch::nn::ReLU(torch::nn::ReLUOptions(/*inplace=*/true)));
    const bool last = side * 2 == options_.output_scale;
    const auto next = last ? options_.out_channels : channels / 2;
    layers->push_back(
        ConvTranspose2d(ConvTranspose2dOptions(channels, next, 4).stride(2).padding(1).bias(last)));
    channels = next;
  }
  layers->push_back(torch::nn::Tanh());
  layers_ = register_module("layers", initialized(layers));
}

torch::Tensor DcganGenerator::forward(const torch::Tensor& noise) {
  HALFSTEP_CHECK_USAGE(noise.dim() == 2 && noise.size(1) == options_.noise_size,
                       "DcganGenerator::forward", "noise must have shape (n, ", options_.noise_size,
                       "), but got ", noise.sizes(), "; make it with noise_size numbers each");
  return layers_->forward(noise.view({-1, options_.noise_size, 1, 1}));
}

DcganDiscriminator::DcganDiscriminator(const Options& options) : options_(options) {
  check(options_, fail_in("DcganDiscriminator"));
  torch::nn::Sequential layers;
  int64_t channels = options_.in_channels;
  for (int64_t side = options_.input_scale; side > options_.output_scale; side /= 2) {
    const bool first = side == options_.input_scale;
    const auto next = first ? options_.base_channels : channels * 2;
    layers->push_back(Conv2d(Conv2dOptions(channels, next, 4).stride(2).padding(1).bias(first)));
    if (!first) layers->push_back(BatchNorm2d(next));
    layers->push_back(
        torch::nn::LeakyReLU(torch::nn::LeakyReLUOptions().negative_slope(0.2).inplace(true)));
    channels = next;
  }
  layers->push_back(Conv2d(Conv2dOptions(channels, 1, options_.output_scale)));
  layers_ = register_module("layers", initialized(layers));
}

torch::Tensor DcganDiscriminator::forward(const torch::Tensor& images) {
  HALFSTEP_CHECK_USAGE(
      images.dim() == 4 && images.size(1) == options_.in_channels &&
          images.size(2) == options_.input_scale && images.size(3) == options_.input_scale,
      "DcganDiscriminator::forward", "images must have shape (n, ", options_.in_channels, ", ",
      options_.input_scale, ", ", options_.input_scale, "), but got ", images.sizes(),
      "; set in_channels and input_scale to the data's");
  return layers_->forward(images).flatten(1);
}

std::shared_ptr<Model> make_dcgan_generator(Config& config) {
  DcganGenerator::Options options;
  options.output_scale = config.get("output_scale", options.output_scale);
  options.input_scale = config.get("input_scale", options.input_scale);
  options.out_channels = config.get("out_channels", options.out_channels);
  options.base_channels = config.get("base_channels", options.base_channels);
  options.noise_size = config.get("noise_size", options.noise_size);
  check(options, fail_in(config));
  return std::make_shared<DcganGenerator>(options);
}

std::shared_ptr<Model> make_dcgan_discriminator(Config& config) {
  DcganDiscriminator::Options options;
  options.input_scale = config.get("input_scale", options.input_scale);
  options.output_scale = config.get("output_scale", options.output_scale);
  options.in_channels = config.get("in_channels", options.in_channels);
  options.base_channels = config.get("base_channels", options.base_channels);
  check(options, fail_in(config));
  return std::make_shared<DcganDiscriminator>(options);
}

}  // namespace halfstep::train
