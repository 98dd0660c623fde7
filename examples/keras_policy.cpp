// A program in Keras's words: a global dtype policy, one layer with a policy of its own, and a
// loss scale where the policy asks for one.
//
// usage: keras_policy [POLICY], for example mixed_bfloat16, mixed_float16 or float32
#include "halfstep/precision.h"
#include "halfstep/scaling.h"

#include <cstdio>
#include <sstream>

#include <torch/torch.h>

namespace F = torch::nn::functional;

struct NetImpl : torch::nn::Module {
  using Linear = halfstep::PolicyLayer<torch::nn::Linear>;
  Linear fc1{register_module("fc1", torch::nn::Linear(2, 64))};  // the global policy
  Linear fc2{register_module("fc2", torch::nn::Linear(64, 64))};
  Linear head{register_module("head", torch::nn::Linear(64, 2)), "float32"};

  torch::Tensor forward(const torch::Tensor& x) {
    return head(torch::relu(fc2(torch::relu(fc1(x)))));
  }
};
TORCH_MODULE(Net);

int main(int argc, char** argv) {
  halfstep::set_dtype_policy(argc > 1 ? argv[1] : "mixed_bfloat16");
  const auto policy = halfstep::dtype_policy();
  torch::manual_seed(0);
  const torch::Device device(torch::cuda::is_available() ? torch::kCUDA : torch::kCPU);
  // Points inside and outside of a circle.
  const auto points = torch::rand({512, 2}, device) * 2 - 1;
  const auto inside = (points.square().sum(1) < 0.6).to(torch::kLong);

  Net net;
  net->to(device);
  torch::optim::Adam optimizer(net->parameters(), 1e-2);
  halfstep::GradScaler scaler(
      halfstep::GradScalerOptions(device.type()).enabled(policy.needs_loss_scale()));

  double first = 0, last = 0;
  for (int step = 0; step < 200; ++step) {
    optimizer.zero_grad();
    const auto loss = F::cross_entropy(net->forward(points), inside);
    scaler.scale(loss).backward();
    scaler.step(optimizer);
    scaler.update();
    last = loss.item<double>();
    if (step == 0) first = last;
  }
  std::ostringstream printed;
  printed << policy << ", last layer " << net->head.policy();
  std::printf("%s: %s, scale %g\n", policy.name().c_str(), printed.str().c_str(),
              scaler.get_scale());
  std::printf("loss %.4f -> %.4f\n", first, last);
}
