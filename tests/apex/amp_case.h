#pragma once
#include "halfstep/apex/amp.h"

#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/conv.h>
#include <torch/optim/sgd.h>
#include <torch/types.h>
#include <torch/utils.h>

#include "tests/apex/two_weights.h"
#include "tests/support/devices.h"

namespace halfstep::testing {

using apex::AmpOptions, apex::OptLevel, apex::ScaleLossOptions;

/// The network of Apex's test_checkpointing.py.
struct ConvNetImpl : torch::nn::Module {
  torch::nn::Conv2d conv1 =
      register_module("conv1", torch::nn::Conv2d(torch::nn::Conv2dOptions(3, 6, 3).padding(1)));
  torch::nn::BatchNorm2d bn1 = register_module("bn1", torch::nn::BatchNorm2d(6));
  at::Tensor param = register_parameter("param", torch::randn(1));

  at::Tensor forward(at::Tensor x) {
    seen = x.scalar_type();
    return bn1(torch::relu(conv1(x * param)));
  }
  c10::ScalarType seen = torch::kLong;
};
TORCH_MODULE(ConvNet);

inline torch::optim::SGD sgd(const std::vector<at::Tensor>& parameters, double lr,
                             double momentum = 0) {
  return torch::optim::SGD(parameters, torch::optim::SGDOptions(lr).momentum(momentum));
}

/// Tests of an Amp on each device.
class AmpTest : public DeviceTest {
 protected:
  static constexpr auto f32 = torch::kFloat, f16 = torch::kHalf, bf16 = torch::kBFloat16;

  ConvNet conv_net() const {
    torch::manual_seed(2809);
    ConvNet net;
    net->to(device());
    return net;
  }
  at::Tensor images() const { return torch::randn({4, 3, 8, 8}).to(device()); }
  at::Tensor x() const { return torch::ones({2}, torch::device(device())); }

  static void backward(apex::Amp& amp, const at::Tensor& loss, torch::optim::Optimizer& optimizer,
                       const ScaleLossOptions& options = ScaleLossOptions(),
                       bool retain_graph = false) {
    auto scaled = amp.scale_loss(loss, optimizer, options);
    scaled->backward({}, retain_graph);
  }
};

}  // namespace halfstep::testing
