// A program in NVIDIA Apex's words: level O2, that is, weights and inputs in 16 bits, batch norm in
// float32, float32 masters that the optimizer steps, and a dynamic loss scale.
//
// usage: apex_o2
#include "halfstep/apex.h"

#include <cstdio>

#include <torch/torch.h>

namespace F = torch::nn::functional;

struct NetImpl : torch::nn::Module {
  torch::nn::Linear fc1 = register_module("fc1", torch::nn::Linear(2, 64));
  torch::nn::BatchNorm1d norm = register_module("norm", torch::nn::BatchNorm1d(64));
  torch::nn::Linear fc2 = register_module("fc2", torch::nn::Linear(64, 2));

  torch::Tensor forward(torch::Tensor x) { return fc2(torch::relu(norm(fc1(x)))); }
};
TORCH_MODULE(Net);

int main() {
  torch::manual_seed(0);
  const torch::Device device(torch::cuda::is_available() ? torch::kCUDA : torch::kCPU);
  // Points inside and outside of a circle.
  const auto points = torch::rand({512, 2}, device) * 2 - 1;
  const auto inside = (points.square().sum(1) < 0.6).to(torch::kLong);

  Net net;
  net->to(device);
  torch::optim::Adam optimizer(net->parameters(), 1e-2);
  // bfloat16 stands for float16 on a CPU, which has no fast float16.
  const auto half = device.is_cuda() ? torch::kHalf : torch::kBFloat16;
  auto amp = halfstep::apex::initialize(
      *net, optimizer, halfstep::apex::AmpOptions(halfstep::apex::OptLevel::O2).half_dtype(half));
  std::printf("%s", halfstep::apex::to_string(amp.properties()).c_str());

  double first = 0, last = 0;
  for (int step = 0; step < 200; ++step) {
    amp.zero_grad(optimizer);
    const auto loss = F::cross_entropy(amp.forward(net, points), inside);
    {
      auto scaled_loss = amp.scale_loss(loss, optimizer);
      scaled_loss->backward();
    }
    amp.step(optimizer);
    last = loss.item<double>();
    if (step == 0) first = last;
  }
  std::printf("weights in %s, batch norm in %s, scale %g\n",
              torch::toString(net->fc1->weight.scalar_type()),
              torch::toString(net->norm->weight.scalar_type()), amp.scaler().get_scale());
  std::printf("loss %.4f -> %.4f\n", first, last);
}
