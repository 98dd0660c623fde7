#include "halfstep/train/models/conv_net.h"

#include "halfstep/core/error.h"

#include <functional>
#include <string>

#include <ATen/ops/max_pool2d.h>
#include <ATen/ops/relu.h>

namespace halfstep::train {
namespace {

// Side of the images after the pools, each of which halves it.
int64_t pooled_size(const ConvNet::Options& options) {
  return options.channels.size() < 63 ? options.image_size >> options.channels.size() : 0;
}

// Calls `fail` with the key, the rule and the value of each option that is out of range.
void check(const ConvNet::Options& o,
           const std::function<void(const char*, const char*, const std::string&)>& fail) {
  const auto channels = c10::str(c10::IntArrayRef(o.channels));
  if (o.in_channels < 1) fail("in_channels", "must be at least 1", c10::str(o.in_channels));
  if (o.image_size < 1) fail("image_size", "must be at least 1", c10::str(o.image_size));
  if (o.classes < 1) fail("classes", "must be at least 1", c10::str(o.classes));
  if (!(o.dropout >= 0 && o.dropout < 1)) fail("dropout", "must be in [0, 1)", c10::str(o.dropout));
  if (o.channels.empty()) fail("channels", "must have at least one entry", channels);
  for (const auto count : o.channels)
    if (count < 1) fail("channels", "must have entries of at least 1", channels);
  if (pooled_size(o) < 1)
    fail("channels", "must have fewer entries: each halves the images, and nothing is left",
         channels);
}

}  // namespace

ConvNet::ConvNet(const Options& options) : options_(options) {
  check(options_, [](const char* key, const char* rule, const std::string& value) {
    halfstep::detail::raise<UsageError>("ConvNet", key, " ", rule, ", but got ", value,
                                        "; change that option");
  });
  int64_t inputs = options_.in_channels;
  for (size_t i = 0; i < options_.channels.size(); ++i) {
    const auto number = std::to_string(i + 1);
    const int64_t outputs = options_.channels[i];
    convs_.push_back(register_module(
        "conv" + number,
        torch::nn::Conv2d(torch::nn::Conv2dOptions(inputs, outputs, 3).padding(1))));
    norms_.push_back(register_module("bn" + number, torch::nn::BatchNorm2d(outputs)));
    inputs = outputs;
  }
  dropout_ = register_module("dropout", torch::nn::Dropout(options_.dropout));
  const int64_t side = pooled_size(options_);
  fc_ = register_module("fc", nn::Linear(inputs * side * side, options_.classes));
}

torch::Tensor ConvNet::forward(const torch::Tensor& input) {
  HALFSTEP_CHECK_USAGE(input.dim() == 4 && input.size(1) == options_.in_channels &&
                           input.size(2) == options_.image_size &&
                           input.size(3) == options_.image_size,
                       "ConvNet::forward", "input must have shape (n, ", options_.in_channels, ", ",
                       options_.image_size, ", ", options_.image_size, "), but got ", input.sizes(),
                       "; set the model's in_channels and image_size to the data's");
  auto x = input;
  for (size_t i = 0; i < convs_.size(); ++i)
    x = at::max_pool2d(at::relu(norms_[i](convs_[i](x))), 2);
  return fc_(dropout_(x.flatten(1)));
}

std::shared_ptr<Model> make_conv_net(Config& config) {
  ConvNet::Options options;
  options.in_channels = config.get("in_channels", options.in_channels);
  options.image_size = config.get("image_size", options.image_size);
  options.channels = config.get("channels", options.channels);
  options.dropout = config.get("dropout", options.dropout);
  options.classes = config.get("classes", options.classes);
  check(options,
        [&](const char* key, const char* rule, const std::string&) { config.fail(key, rule); });
  return std::make_shared<ConvNet>(options);
}

}  // namespace halfstep::train
