#include "tests/train/loop/blobs.h"

#include "halfstep/train/loop/trainer.h"

#include <csignal>
#include <tuple>
#include <utility>

#include <torch/nn/functional/loss.h>
#include <torch/nn/modules/linear.h>
#include <torch/types.h>

namespace halfstep::train::testing {

namespace {

class Blobs : public Dataset {
 public:
  Blobs(int64_t examples, int64_t nan_at) {
    const auto index = torch::arange(examples);
    target_ = index.remainder(4);
    data_ = torch::sin(torch::arange(examples * 16, torch::kFloat) * 0.37F).view({examples, 16}) +
            16 * torch::one_hot(target_, 16).to(torch::kFloat);
    if (nan_at >= 0) data_[nan_at].fill_(std::numeric_limits<float>::quiet_NaN());
  }
  int64_t size() const override { return data_.size(0); }
  Batch get_batch(const torch::Tensor& indices) const override {
    return {data_.index_select(0, indices), target_.index_select(0, indices)};
  }

 private:
  torch::Tensor data_;
  torch::Tensor target_;
};

class DropoutNet : public Model {
 public:
  DropoutNet()
      : first_(register_module("first", torch::nn::Linear(16, 32))),
        last_(register_module("last", torch::nn::Linear(32, 4))) {}
  torch::Tensor forward(const torch::Tensor& input) override {
    return last_(torch::dropout(torch::relu(first_(input)), 0.3, is_training()));
  }

 protected:
  torch::nn::Linear first_;
  torch::nn::Linear last_;
};

class TwoStepNet : public DropoutNet {
 public:
  LogVars train_step(const Batch& data, OptimWrapperBase& optim_wrapper) override {
    const auto batch = data_preprocessor(data, /*training=*/true);
    LogVars log_vars;
    for (const auto& [name, trained, frozen] :
         {std::tuple("first", first_, last_), {"last", last_, first_}}) {
      for (auto& parameter : frozen->parameters()) parameter.requires_grad_(false);
      Losses losses;
      {
        const auto context = optim_wrapper[name].optim_context(*this);
        losses = loss(batch);
      }
      const auto [total, vars] = parse_losses(losses);
      optim_wrapper[name].update_params(total);
      log_vars.insert(std::string("loss_") + name, vars["loss"]);
      for (auto& parameter : frozen->parameters()) parameter.requires_grad_(true);
    }
    return log_vars;
  }
};

// Its state and the weights go wrong together where a checkpoint is written before it ran.
class Drift : public Hook {
 public:
  void after_train_iter(Trainer& trainer, const Batch&) override {
    const torch::NoGradGuard no_grad;
    seen_ = 0.5 * seen_ + trainer.loss().item<double>();
    trainer.parts().model->parameters().back().add_(1e-3 * seen_);
  }
  void after_train_epoch(Trainer&) override { seen_ += 1; }
  nlohmann::json state() const override { return seen_; }
  void load_state(const nlohmann::json& state) override { state.get_to(seen_); }

 private:
  double seen_ = 0;
};

Loss make_signal_in_evaluation(Config&) {
  return [](const torch::Tensor& output, const torch::Tensor& target) {
    static bool raised = false;
    if (!torch::GradMode::is_enabled() && !std::exchange(raised, true)) std::raise(SIGTERM);
    return torch::nn::functional::cross_entropy(output, target);
  };
}

/// Two layers with a hidden layer that float16 can't hold (gain) or no dtype has a gradient for.
class LoudNet : public Model {
 public:
  LoudNet(double gain, int64_t broken_from)
      : gain_(gain),
        broken_from_(broken_from),
        first_(register_module("first", torch::nn::Linear(16, 32))),
        last_(register_module("last", torch::nn::Linear(32, 4))) {}
  torch::Tensor forward(const torch::Tensor& input) override {
    auto hidden = first_(input) * gain_;
    if (is_training() && ++calls_ >= broken_from_) hidden = torch::sqrt(hidden * 0);
    return last_(hidden) / gain_;
  }

 private:
  double gain_;
  int64_t broken_from_;
  int64_t calls_ = 0;
  torch::nn::Linear first_;
  torch::nn::Linear last_;
};

}  // namespace

void register_blobs() {
  [[maybe_unused]] static const bool data =
      datasets().add("Blobs", [](Config& config) -> std::shared_ptr<Dataset> {
        return std::make_shared<Blobs>(config.get<int64_t>("examples", 96),
                                       config.get<int64_t>("nan_at", -1));
      });
  [[maybe_unused]] static const bool model = models().add(
      "DropoutNet",
      [](Config&) -> std::shared_ptr<Model> { return std::make_shared<DropoutNet>(); });
  [[maybe_unused]] static const bool two_steps = models().add(
      "TwoStepNet",
      [](Config&) -> std::shared_ptr<Model> { return std::make_shared<TwoStepNet>(); });
  [[maybe_unused]] static const bool hook =
      hooks().add("Drift", [](Config&) { return std::make_unique<Drift>(); });
  [[maybe_unused]] static const bool loss =
      losses().add("SignalInEvaluation", make_signal_in_evaluation);
  [[maybe_unused]] static const bool loud =
      models().add("LoudNet", [](Config& config) -> std::shared_ptr<Model> {
        return std::make_shared<LoudNet>(config.get<double>("gain", 1.0),
                                         config.get<int64_t>("broken_from", 1'000'000));
      });
}

const char* const blobs_config = R"(
model: {type: DropoutNet}
loss: {type: CrossEntropyLoss}
train_dataloader: {batch_size: 16, shuffle: true, dataset: {type: Blobs}}
test_dataloader: {batch_size: 40, dataset: {type: Blobs}}
optim_wrapper: {type: OptimWrapper, optimizer: {type: Adam, lr: 0.01}}
param_scheduler: [{type: StepLR, step_size: 1, gamma: 0.5}]
train_cfg: {max_epochs: 2}
default_hooks: {logger: {interval: 4}, checkpoint: {max_keep: 0}}
)";

}  // namespace halfstep::train::testing
