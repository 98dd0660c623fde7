// OneFlow's AMP tutorial in C++: a network in nn.Graph with a dynamic loss scale, 100 steps.
//
// There the labels are ones of shape (128, 1). LibTorch's cross entropy takes class numbers of
// shape (128), so build drops the second dimension.
#include "halfstep/halfstep.h"

#include <cstdio>

#include <torch/torch.h>

namespace nn = torch::nn;

struct CustomGraph : halfstep::Graph<torch::Tensor(torch::Tensor, torch::Tensor)> {
  CustomGraph(nn::Sequential its_model, torch::optim::Optimizer& optimizer,
              halfstep::GradScaler& grad_scaler)
      : model(register_module("model", its_model)) {
    add_optimizer(optimizer);
    set_grad_scaler(grad_scaler);
    config().enable_amp(true);
  }
  torch::Tensor build(const torch::Tensor& x, const torch::Tensor& y) override {
    const auto y_pred = model->forward(x);
    const auto loss = nn::functional::cross_entropy(y_pred, y.squeeze(1));
    loss.backward();  // the graph scales it, steps the optimizer, updates the scale
    return y_pred;
  }
  nn::Sequential model;
};

int main() {
  torch::manual_seed(0);
  const torch::Device device(torch::cuda::is_available() ? torch::kCUDA : torch::kCPU);
  nn::Sequential model(nn::Linear(256, 128), nn::ReLU(), nn::Linear(128, 10));
  model->to(device);
  halfstep::optim::SGD optimizer(model->parameters(), halfstep::optim::SGDOptions(1e-3));
  auto options = halfstep::dialects::oneflow();
  options.device_type(device.type()).init_scale(4096).growth_factor(2.0).backoff_factor(0.5);
  halfstep::GradScaler grad_scaler(options.growth_interval(1000));
  CustomGraph graph_model(model, optimizer, grad_scaler);

  torch::Tensor y_pred;
  for (int i = 0; i < 100; ++i) {
    const auto x = torch::randn({128, 256}, device);
    const auto y = torch::ones({128, 1}, at::TensorOptions(device).dtype(torch::kLong));
    y_pred = graph_model(x, y);
    if (i % 33 == 0) {
      const auto right = (y_pred.argmax(1) == y.squeeze(1)).to(torch::kFloat).mean();
      std::printf("step %2d: %3.0f %% are class 1\n", i, 100 * right.item<double>());
    }
  }
  std::printf("%lld steps recorded, %lld replayed, outputs in %s, scale %g\n",
              static_cast<long long>(graph_model.recorded_steps()),
              static_cast<long long>(graph_model.replayed_steps()),
              halfstep::dtype_name(y_pred.scalar_type()).c_str(), grad_scaler.get_scale());
}
