#include "tests/train/loop/blobs.h"

#include "halfstep/train/registry/registry.h"

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

 private:
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
