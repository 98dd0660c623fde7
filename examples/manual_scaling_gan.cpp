// The older style: a program that scales the losses of a small GAN by its own calls, one scaler for
// both optimizers, with a first scale of 512. What examples/optim_wrapper.cpp leaves to a wrapper
// stands here in full.
//
// usage: manual_scaling_gan
#include "halfstep/autocast.h"
#include "halfstep/optim.h"
#include "halfstep/scaling.h"

#include <cmath>
#include <cstdio>

#include <torch/torch.h>

namespace F = torch::nn::functional;
using torch::nn::Linear, torch::nn::ReLU, torch::nn::Sequential;

int main() {
  torch::manual_seed(0);
  const torch::Device device(torch::cuda::is_available() ? torch::kCUDA : torch::kCPU);
  // What the generator is to draw: points around (2, -1).
  const auto real_points = [&] {
    return torch::randn({256, 2}, device) * 0.3 + torch::tensor({2.0F, -1.0F}, device);
  };

  Sequential generator(Linear(4, 32), ReLU(), Linear(32, 2));
  Sequential discriminator(Linear(2, 32), ReLU(), Linear(32, 1));
  generator->to(device);
  discriminator->to(device);
  const auto options = halfstep::optim::AdamOptions(2e-3).betas({0.5, 0.9});
  halfstep::optim::Adam generator_adam(generator->parameters(), options);
  halfstep::optim::Adam discriminator_adam(discriminator->parameters(), options);
  halfstep::GradScaler loss_scaler(halfstep::GradScalerOptions(device.type()).init_scale(512));

  const auto region = halfstep::AutocastOptions(device.type()).dtype(torch::kHalf);
  const halfstep::HalfRehearsal rehearsal(device.is_cpu());  // a CPU's own float16 is slow
  const auto score = [&](const torch::Tensor& points, double label) {
    const auto scores = discriminator->forward(points);
    return F::binary_cross_entropy_with_logits(scores, torch::full_like(scores, label));
  };
  const auto distance = [&] {
    const torch::NoGradGuard no_grad;
    const auto mean = generator->forward(torch::randn({1024, 4}, device)).mean(0);
    return (mean - torch::tensor({2.0F, -1.0F}, device)).norm().item<double>();
  };
  const double first = distance();
  for (int step = 0; step < 600; ++step) {
    discriminator_adam.zero_grad();
    torch::Tensor loss_disc;
    {
      const halfstep::Autocast autocast(region);
      const auto fake = generator->forward(torch::randn({256, 4}, device)).detach();
      loss_disc = score(real_points(), 1) + score(fake, 0);
    }
    loss_scaler.scale(loss_disc).backward();
    loss_scaler.unscale_(discriminator_adam);
    loss_scaler.step(discriminator_adam);

    generator_adam.zero_grad();
    torch::Tensor loss_gen;
    {
      const halfstep::Autocast autocast(region);
      loss_gen = score(generator->forward(torch::randn({256, 4}, device)), 1);
    }
    loss_scaler.scale(loss_gen).backward();
    loss_scaler.unscale_(generator_adam);
    loss_scaler.step(generator_adam);
    // Once, after all optimizers: without it the next unscale_ is an error.
    loss_scaler.update();
  }
  std::printf("scale %g, %lld steps skipped\n", loss_scaler.get_scale(),
              static_cast<long long>(loss_scaler.overflows().skipped_steps));
  std::printf("loss %.4f -> %.4f\n", first, distance());
}
