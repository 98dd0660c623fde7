#include "benchmarks/variants.h"

#include "halfstep/autocast/autocast.h"
#include "halfstep/core/error.h"

#include <utility>

#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/_fused_adam.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/optim/adam.h>
#include <torch/types.h>

namespace halfstep::benchmarks {
namespace {

constexpr double learning_rate = 1e-3;

// ATen's fused Adam with Python's defaults.
class FusedAdam {
 public:
  explicit FusedAdam(std::vector<at::Tensor> parameters) : parameters_(std::move(parameters)) {}

  void zero_grad() {
    for (auto& p : parameters_) p.mutable_grad().reset();
  }

  void step() {
    const torch::NoGradGuard no_grad;
    if (averages_.empty()) {
      for (const auto& p : parameters_) {
        averages_.push_back(at::zeros_like(p));
        squares_.push_back(at::zeros_like(p));
        steps_.push_back(at::zeros({}));
      }
    }
    std::vector<at::Tensor> gradients;
    for (const auto& p : parameters_) gradients.push_back(p.grad());
    at::_foreach_add_(steps_, 1);
    at::_fused_adam_(parameters_, gradients, averages_, squares_, {}, steps_, learning_rate, 0.9,
                     0.999, 0, 1e-8, false, false);
  }

 private:
  std::vector<at::Tensor> parameters_, averages_, squares_, steps_;
};

// The raw loop of the README: zero_grad, forward under Autocast, backward, step.
template <class Optimizer>
Step raw_loop(std::shared_ptr<train::Model> network, Batch batch, bool autocast,
              std::shared_ptr<Optimizer> optimizer) {
  return [=, network = std::move(network), batch = std::move(batch)]() {
    optimizer->zero_grad();
    at::Tensor loss;
    {
      const Autocast region(AutocastOptions(at::kCPU).enabled(autocast).dtype(at::kBFloat16));
      loss = at::cross_entropy_loss(network->forward(batch.input), batch.target);
    }
    loss.backward();
    optimizer->step();
    return loss;
  };
}

Step with_torch_adam(std::shared_ptr<train::Model> network, Batch batch, bool autocast) {
  auto optimizer = std::make_shared<torch::optim::Adam>(network->parameters(), learning_rate);
  return raw_loop(std::move(network), std::move(batch), autocast, std::move(optimizer));
}

Step with_fused_adam(std::shared_ptr<train::Model> network, Batch batch, bool autocast) {
  auto optimizer = std::make_shared<FusedAdam>(network->parameters());
  return raw_loop(std::move(network), std::move(batch), autocast, std::move(optimizer));
}

}  // namespace

const std::vector<Variant>& variants() {
  static const std::vector<Variant> all{
      {"torch::optim::Adam", false, false, with_torch_adam},
      {"fused", false, false, with_fused_adam},
      {"fused, channels_last", true, true, with_fused_adam},
  };
  return all;
}

const Variant& find_variant(const std::string& name) {
  for (const auto& variant : variants())
    if (variant.name == name) return variant;
  halfstep::detail::raise<UsageError>("variants", "there is no variant '", name,
                                      "'; --list shows them");
}

}  // namespace halfstep::benchmarks
