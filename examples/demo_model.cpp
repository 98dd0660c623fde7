// A model in the style of MMagic 1.x: a BaseModel with a training step of its own, and the whole
// halfstep command around it. train_step_0x.cpp is what it was before.
//
// usage: demo_model train demo_model.yaml [--amp] [--cfg-options …]
#include "halfstep/train.h"

#include <torch/torch.h>

namespace F = torch::nn::functional;
using namespace halfstep::train;

struct DemoModule : torch::nn::Module {
  explicit DemoModule(Config cfg) : net(register_module("net", models().build(cfg))) {}

  torch::Tensor forward(const torch::Tensor& x) { return net->forward(x); }

  std::shared_ptr<BaseModel> net;
};

class DemoModel : public BaseModel {
 public:
  explicit DemoModel(Config& cfg)
      : demo_network(register_module("demo_network",
                                     std::make_shared<DemoModule>(cfg.child("demo_network")))) {}

  LogVars train_step(const Batch& data, halfstep::OptimWrapperBase& optim_wrapper) override {
    const auto [inputs, targets] = data_preprocessor(data, true);

    torch::Tensor output;
    {
      const auto context = optim_wrapper.optim_context(*demo_network);
      output = demo_network->forward(inputs);
    }
    const auto loss_dict = get_loss(output, targets);
    const auto [loss, log_vars] = parse_losses(loss_dict);
    optim_wrapper.update_params(loss);

    return log_vars;
  }

  // What a model says besides, for validation and test.
  torch::Tensor forward(const torch::Tensor& inputs) override {
    return demo_network->forward(inputs);
  }
  Losses loss(const Batch& batch) override { return get_loss(forward(batch.data), batch.target); }

 private:
  static Losses get_loss(const torch::Tensor& output, const torch::Tensor& targets) {
    const auto right = output.argmax(1) == targets;
    return {{"loss_cls", F::cross_entropy(output.to(torch::kFloat), targets)},
            {"accuracy", right.to(torch::kFloat)}};
  }

  std::shared_ptr<DemoModule> demo_network;
};

int main(int argc, char** argv) {
  models().add("DemoModel", [](Config& cfg) { return std::make_shared<DemoModel>(cfg); });
  return halfstep::train::main(argc, argv);
}
