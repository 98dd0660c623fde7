// The MNIST program twice: mnist_float32.cpp, and mnist_amp.cpp in automatic mixed precision. They
// differ in six lines.
//
// usage: mnist_float32 | mnist_amp [FOLDER WITH MNIST'S FILES]
#include "halfstep/halfstep.h"
#include "halfstep/train/data/loader.h"
#include "halfstep/train/data/mnist.h"

#include <cstdio>

#include <torch/torch.h>

namespace F = torch::nn::functional;

struct NetImpl : torch::nn::Module {
  torch::nn::Linear fc1 = register_module("fc1", torch::nn::Linear(28 * 28, 256));
  torch::nn::Linear fc2 = register_module("fc2", torch::nn::Linear(256, 10));

  torch::Tensor forward(torch::Tensor x) {
    x = x.view({-1, 28 * 28});
    x = torch::relu(fc1(x));
    return fc2(x);
  }
};
TORCH_MODULE(Net);

torch::Tensor loss_of(Net& net, const torch::Tensor& data, const torch::Tensor& target) {
  const halfstep::Autocast autocast(data.device().type());
  return F::cross_entropy(net(data), target);
}

int main(int argc, char** argv) {
  torch::manual_seed(0);
  const torch::Device device(torch::cuda::is_available() ? torch::kCUDA : torch::kCPU);
  halfstep::train::MnistOptions options;
  if (argc > 1) options.root = argv[1];
  const auto images = std::make_shared<halfstep::train::Mnist>(options);
  halfstep::train::Loader loader(images, {.batch_size = 64, .shuffle = true});

  Net net;
  net->to(device);
  torch::optim::Adam optimizer(net->parameters(), 1e-3);
  halfstep::GradScaler scaler(device.type());

  for (int epoch = 1; epoch <= 2; ++epoch) {
    loader.set_epoch(epoch);
    for (int64_t i = 0; i < loader.num_batches(); ++i) {
      auto [data, target] = loader.batch(i);
      optimizer.zero_grad();
      const auto loss = loss_of(net, data.to(device), target.to(device));
      scaler.scale(loss).backward();
      scaler.step(optimizer);
      scaler.update();
      if (i % 200 == 0) {
        std::printf("Train Epoch: %d [%ld/%ld] Loss: %.6f\n", epoch, i * 64, images->size(),
                    loss.item<double>());
      }
    }
  }
}
