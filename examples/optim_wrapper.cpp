// A training loop in MMEngine's words: eight small batches for each step, gradients clipped, mixed
// precision behind one class name, and a learning rate that moves with the steps that were taken.
//
// usage: optim_wrapper [amp|float32]
#include "halfstep/optim_wrapper.h"

#include "halfstep/optim.h"

#include <cstdio>
#include <iostream>
#include <memory>
#include <string_view>

#include <torch/torch.h>

namespace F = torch::nn::functional;

int main(int argc, char** argv) {
  const bool amp = argc < 2 || std::string_view(argv[1]) == "amp";
  torch::manual_seed(0);
  const torch::Device device(torch::cuda::is_available() ? torch::kCUDA : torch::kCPU);
  // Points inside and outside of a circle.
  const auto points = torch::rand({512, 2}, device) * 2 - 1;
  const auto inside = (points.square().sum(1) < 0.6).to(torch::kLong);
  const auto inputs = points.split(64), targets = inside.split(64);

  torch::nn::Sequential net(torch::nn::Linear(2, 64), torch::nn::ReLU(), torch::nn::Linear(64, 2));
  net->to(device);
  halfstep::optim::Adam optimizer(net->parameters(), halfstep::optim::AdamOptions(2e-2));
  halfstep::optim::LRScheduler scheduler(optimizer, halfstep::optim::cosine_annealing_lr(200));

  const auto clip = halfstep::ClipGrad::norm(1);
  std::unique_ptr<halfstep::OptimWrapper> wrapper;
  if (amp)  // float16 on a GPU, with a dynamic loss scale; bfloat16 on a CPU, which needs none
    wrapper = std::make_unique<halfstep::AmpOptimWrapper>(
        optimizer, halfstep::AmpOptimWrapperOptions().accumulative_counts(8).clip_grad(clip));
  else
    wrapper = std::make_unique<halfstep::OptimWrapper>(
        optimizer, halfstep::OptimWrapperOptions().accumulative_counts(8).clip_grad(clip));
  std::cout << *wrapper;

  wrapper->initialize_count_status(*net, 0, 1600);
  double first = 0, last = 0;
  for (size_t iteration = 0; iteration < 1600; ++iteration) {
    torch::Tensor loss;
    {
      const auto context = wrapper->optim_context(*net);
      loss = F::cross_entropy(net->forward(inputs[iteration % 8]), targets[iteration % 8]);
    }
    if (const auto result = wrapper->update_params(loss)) scheduler.step(*result);
    if (iteration % 8 != 7) continue;
    last = loss.item<double>();
    if (iteration == 7) first = last;
  }
  std::printf("%lld steps, gradient norm %.2g at the last\n",
              static_cast<long long>(scheduler.steps()), wrapper->grad_norm().item<double>());
  std::printf("loss %.4f -> %.4f\n", first, last);
}
