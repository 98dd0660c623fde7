// A user's own trainer in another repository: classes of one's own, and halfstep's command around
// them.
#include "halfstep/train.h"

#include <iostream>

#include <torch/nn/modules/linear.h>
#include <torch/optim/sgd.h>

namespace train = halfstep::train;

struct Ramp : train::Dataset {
  int64_t size() const override { return 64; }
  train::Batch get_batch(const at::Tensor& indices) const override {
    const auto x = indices.to(at::kFloat).unsqueeze(1) / 64;
    return {x, 3 * x - 1};
  }
};

struct Line : train::Model {
  torch::nn::Linear fit = register_module("fit", torch::nn::Linear(1, 1));
  torch::Tensor forward(const torch::Tensor& x) override { return fit(x); }
};

struct TellSteps : train::Hook {
  int64_t steps = 0;
  void after_train_iter(train::Trainer&, const train::Batch&) override { ++steps; }
  void after_run(train::Trainer&) override {
    std::cout << "my own hook saw " << steps << " steps\n";
  }
};

int main(int argc, char** argv) {
  train::datasets().add("Ramp", [](train::Config&) { return std::make_shared<Ramp>(); });
  train::models().add("Line", [](train::Config&) { return std::make_shared<Line>(); });
  train::hooks().add("TellSteps", [](train::Config&) { return std::make_unique<TellSteps>(); });
  train::losses().add("AbsoluteError", [](train::Config&) {
    return [](const torch::Tensor& output, const torch::Tensor& target) {
      return (output - target).abs().mean();
    };
  });
  train::optimizers().add("MySGD",
                          [](train::Config& config, std::vector<torch::Tensor> parameters) {
                            return std::make_unique<torch::optim::SGD>(
                                parameters, torch::optim::SGDOptions(config.get<double>("lr")));
                          });
  return train::main(argc, argv);
}
