#include "halfstep/autocast/autocast.h"
#include "halfstep/nn/linear.h"

#include <ATen/autocast_mode.h>
#include <torch/torch.h>

#include "tests/support/devices.h"

namespace halfstep {

namespace {

// A convolution and at::linear: their weights reach autocast as leaf tensors and so its cache.
// (torch::nn::Linear passes a view, which is never cached.)
struct Net : torch::nn::Module {
  Net()
      : conv(register_module("conv", torch::nn::Conv2d(torch::nn::Conv2dOptions(1, 4, 3)))),
        fc(register_module("fc", nn::Linear(4 * 4 * 4, 2))) {}
  torch::Tensor forward(const torch::Tensor& x) { return fc(torch::relu(conv(x)).flatten(1)); }
  torch::nn::Conv2d conv;
  nn::Linear fc;
};

struct Flag {
  explicit Flag(c10::DeviceType type) : device_type(type) {
    at::autocast::set_autocast_enabled(device_type, true);
  }
  ~Flag() { at::autocast::set_autocast_enabled(device_type, false); }
  c10::DeviceType device_type;
};

// The losses of 30 steps whose forward runs under Region(device type).
template <class Region>
std::vector<float> train(c10::Device device) {
  torch::manual_seed(3);
  Net net;
  net.to(device);
  const auto x = torch::randn({8, 1, 6, 6}, device);
  const auto y = torch::randn({8, 2}, device);
  torch::optim::SGD optimizer(net.parameters(), 0.05);
  std::vector<float> losses;
  for (int step = 0; step < 30; ++step) {
    optimizer.zero_grad();
    torch::Tensor loss;
    {
      const Region region(device.type());
      loss = torch::mse_loss(net.forward(x), y);
    }
    losses.push_back(loss.item<float>());
    loss.backward();
    optimizer.step();
  }
  at::autocast::clear_cache();
  return losses;
}

}  // namespace

class AutocastFreeze : public testing::DeviceTest {};
HALFSTEP_ON_EACH_DEVICE(AutocastFreeze);

TEST_P(AutocastFreeze, TheGuardLetsANetLearn) {
  const auto losses = train<Autocast>(device());
  EXPECT_LT(losses.back(), 0.2 * losses.front());
}

// The trap the guard is for: if LibTorch ever mends it, this test tells.
TEST_P(AutocastFreeze, TheFlagAloneFreezesIt) {
  const auto losses = train<Flag>(device());
  // The weights never move; biases are cached too.
  EXPECT_EQ(losses.back(), losses.front());
}

}  // namespace halfstep
