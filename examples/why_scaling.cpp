// Why a loss is scaled: a loss with a small weight (1e-6, as one of several losses may have)
// trained in float32, in float16, and in float16 with a scaler. float16 has no number between 0 and
// 6e-8: the gradients become 0, and nothing is learned, without any error. On a CPU float16 is
// rehearsed.
#include "halfstep/halfstep.h"

#include <cstdio>
#include <optional>

#include <torch/torch.h>

namespace F = torch::nn::functional;

constexpr double kWeight = 1e-6;

void train(const char* name, torch::Device device, bool half, bool scaled) {
  torch::manual_seed(0);
  torch::nn::Sequential net(torch::nn::Linear(16, 64), torch::nn::ReLU(), torch::nn::Linear(64, 1));
  net->to(device);
  const auto x = torch::randn({256, 16}).to(device);
  const auto y = x.mul(torch::linspace(-1, 1, 16).to(device)).sum(1, /*keepdim=*/true).tanh();

  torch::optim::SGD optimizer(net->parameters(), 0.1 / kWeight);
  halfstep::GradScaler scaler(halfstep::GradScalerOptions(device.type()).enabled(scaled));
  const halfstep::HalfRehearsal rehearsal;
  double first = 0, last = 0, zeros = 0;
  for (int step = 0; step < 200; ++step) {
    optimizer.zero_grad();
    torch::Tensor error, loss;
    {
      const halfstep::Autocast autocast(
          halfstep::AutocastOptions(device.type()).enabled(half).dtype(torch::kHalf));
      error = F::mse_loss(net->forward(x), y);
      loss = kWeight * error;
    }
    scaler.scale(loss).backward();
    if (step == 0) {
      first = error.item<double>();
      const auto& gradient = net->parameters().front().grad();
      zeros = gradient.eq(0).to(torch::kFloat).mean().item<double>();
    }
    scaler.step(optimizer);
    scaler.update();
    last = error.item<double>();
  }
  std::printf("%-22s loss %.4f at first, %.4f at last; %3.0f %% of the first gradients are 0\n",
              name, first, last, 100 * zeros);
}

int main() {
  const torch::Device device(torch::cuda::is_available() ? torch::kCUDA : torch::kCPU);
  train("float32", device, false, false);
  train("float16", device, true, false);
  train("float16 and a scaler", device, true, true);
}
