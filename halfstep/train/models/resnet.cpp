#include "halfstep/train/models/resnet.h"

#include "halfstep/core/error.h"

#include <functional>
#include <string>
#include <utility>

#include <ATen/ops/adaptive_avg_pool2d.h>

namespace halfstep::train {
namespace {

torch::nn::Conv2d convolution(int64_t inputs, int64_t outputs, int64_t size, int64_t stride) {
  return torch::nn::Conv2d(
      torch::nn::Conv2dOptions(inputs, outputs, size).stride(stride).padding(size / 2).bias(false));
}

// Two 3×3 convolutions, and the input added to their result.
class BasicBlockImpl : public torch::nn::Module {
 public:
  BasicBlockImpl(int64_t inputs, int64_t outputs, int64_t stride)
      : conv1_(register_module("conv1", convolution(inputs, outputs, 3, stride))),
        bn1_(register_module("bn1", torch::nn::BatchNorm2d(outputs))),
        conv2_(register_module("conv2", convolution(outputs, outputs, 3, 1))),
        bn2_(register_module("bn2", torch::nn::BatchNorm2d(outputs))) {
    if (stride == 1 && inputs == outputs) return;
    downsample_ =
        register_module("downsample", torch::nn::Sequential(convolution(inputs, outputs, 1, stride),
                                                            torch::nn::BatchNorm2d(outputs)));
  }

  // In place where no backward needs what is overwritten: the values are those of separate ops.
  torch::Tensor forward(const torch::Tensor& input) {
    auto x = bn1_(conv1_(input)).relu_();
    x = bn2_(conv2_(x));
    return x.add_(downsample_ ? downsample_->forward(input) : input).relu_();
  }

 private:
  torch::nn::Conv2d conv1_;
  torch::nn::BatchNorm2d bn1_;
  torch::nn::Conv2d conv2_;
  torch::nn::BatchNorm2d bn2_;
  torch::nn::Sequential downsample_{nullptr};
};

TORCH_MODULE(BasicBlock);

// Calls `fail` with the key and the rule of each option that is out of range.
void check(const ResNet18::Options& o, const std::function<void(const char*, const char*)>& fail) {
  if (o.in_channels < 1) fail("in_channels", "must be at least 1");
  if (o.width < 1) fail("width", "must be at least 1");
  if (o.classes < 1) fail("classes", "must be at least 1");
}

void make_channels_last(torch::nn::Module& module) {
  for (auto& parameter : module.parameters())
    if (parameter.dim() == 4)
      parameter.set_data(parameter.detach().contiguous(at::MemoryFormat::ChannelsLast));
}

}  // namespace

ResNet18::ResNet18(const Options& options) : options_(options) {
  check(options_, [](const char* key, const char* rule) {
    halfstep::detail::raise<UsageError>("ResNet18", key, " ", rule);
  });
  const int64_t width = options_.width;
  conv1_ = register_module("conv1", convolution(options_.in_channels, width, 3, 1));
  bn1_ = register_module("bn1", torch::nn::BatchNorm2d(width));
  int64_t channels = width;
  for (int stage = 0; stage < 4; ++stage) {
    const int64_t outputs = width << stage;
    const BasicBlock first(channels, outputs, stage == 0 ? 1 : 2);
    const BasicBlock second(outputs, outputs, 1);
    register_module("layer" + std::to_string(stage + 1), torch::nn::Sequential(first, second));
    blocks_->push_back(first);
    blocks_->push_back(second);
    channels = outputs;
  }
  fc_ = register_module("fc", nn::Linear(channels, options_.classes));
  if (options_.channels_last) make_channels_last(*this);
}

torch::Tensor ResNet18::forward(const torch::Tensor& input) {
  HALFSTEP_CHECK_USAGE(input.dim() == 4 && input.size(1) == options_.in_channels,
                       "ResNet18::forward", "input must have shape (n, ", options_.in_channels,
                       ", height, width), but got ", input.sizes(),
                       "; set the model's in_channels to the data's");
  const auto x = options_.channels_last ? input.contiguous(at::MemoryFormat::ChannelsLast) : input;
  const auto features = blocks_->forward(bn1_(conv1_(x)).relu_());
  return fc_(at::adaptive_avg_pool2d(features, {1, 1}).flatten(1));
}

std::shared_ptr<Model> make_resnet18(Config& config) {
  ResNet18::Options options;
  options.in_channels = config.get("in_channels", options.in_channels);
  options.width = config.get("width", options.width);
  options.classes = config.get("classes", options.classes);
  options.channels_last = config.get("channels_last", options.channels_last);
  check(options, [&](const char* key, const char* rule) { config.fail(key, rule); });
  return std::make_shared<ResNet18>(options);
}

}  // namespace halfstep::train
