// Runs a trained network in a program of one's own: weights from a file, 16-bit arithmetic under
// autocast, no trainer and no Python. The file may be what `halfstep export` writes, a checkpoint
// of `halfstep train configs/mnist_mlp.yaml`, or a state dict that Python's torch.save wrote.
//
// usage: inference WEIGHTS [IMAGE.png …]
//
//   halfstep export configs/mnist_mlp.yaml CHECKPOINT --dtype bfloat16 -o mlp.safetensors
//   inference mlp.safetensors shirt.png bag.jpg
#include "halfstep/halfstep.h"
#include "halfstep/train/data/image_file.h"
#include "halfstep/train/weights/load_weights.h"

#include <iostream>

#include <torch/torch.h>

// The names and shapes are the file's; everything else is up to the program.
struct NetImpl : torch::nn::Module {
  torch::nn::Linear fc1 = register_module("fc1", torch::nn::Linear(28 * 28, 256));
  torch::nn::Linear fc2 = register_module("fc2", torch::nn::Linear(256, 10));

  torch::Tensor forward(torch::Tensor x) { return fc2(torch::relu(fc1(x.flatten(1)))); }
};
TORCH_MODULE(Net);

int main(int argc, char** argv) try {
  if (argc < 2) throw halfstep::UsageError("usage: inference WEIGHTS [IMAGE.png …]");
  const torch::Device device(torch::cuda::is_available() ? torch::kCUDA : torch::kCPU);

  Net net;
  // Strict: every tensor must be there, of the right shape. Nothing in the file is executed.
  std::cout << halfstep::train::load_weights(*net, argv[1]);
  net->to(device);
  net->eval();

  std::vector<torch::Tensor> images;
  for (int i = 2; i < argc; ++i)
    images.push_back(
        halfstep::train::read_image(argv[i], halfstep::train::ImageColor::gray).to(torch::kFloat) /
        255);
  if (images.empty()) return 0;

  const torch::NoGradGuard no_grad;
  torch::Tensor scores;
  {
    // float16 on CUDA, bfloat16 on the CPU unless told otherwise.
    const halfstep::Autocast autocast(device.type());
    scores = net(torch::stack(images).to(device));
  }
  const auto [probability, number] = scores.to(torch::kFloat).softmax(1).cpu().max(1);
  for (int i = 2; i < argc; ++i)
    std::cout << argv[i] << ": " << number[i - 2].item<int64_t>() << " "
              << probability[i - 2].item<double>() << "\n";
} catch (const halfstep::Error& error) {
  std::cerr << "error: " << error.what() << "\n";
  return 1;
}
