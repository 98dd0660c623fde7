#include "benchmarks/variants.h"

#include "halfstep/autocast/autocast.h"
#include "halfstep/core/error.h"
#include "halfstep/graph/graph.h"
#include "halfstep/optim/adam.h"
#include "halfstep/optim/gradient_dtype.h"
#include "halfstep/optim/weight_dtype.h"

#include <utility>

#include <ATen/ops/cross_entropy_loss.h>
#include <torch/optim/adam.h>
#include <torch/types.h>

namespace halfstep::benchmarks {
namespace {

constexpr double learning_rate = 1e-3;

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
  auto optimizer = std::make_shared<optim::Adam>(network->parameters(), learning_rate);
  return raw_loop(std::move(network), std::move(batch), autocast, std::move(optimizer));
}

Step with_shadow_weights(std::shared_ptr<train::Model> network, Batch batch, bool autocast) {
  auto optimizer = std::make_shared<optim::Adam>(
      network->parameters(), optim::AdamOptions(learning_rate).shadow_weights(at::kBFloat16));
  return raw_loop(std::move(network), std::move(batch), autocast, std::move(optimizer));
}

// Gradients and the copies autocast takes in bfloat16: no cast of a weight or gradient is left.
Step with_bfloat16_gradients(std::shared_ptr<train::Model> network, Batch batch, bool autocast) {
  optim::set_gradient_dtype(network->parameters(), at::kBFloat16);
  return with_shadow_weights(std::move(network), std::move(batch), autocast);
}

template <optim::MasterWeights kind>
Step with_masters(std::shared_ptr<train::Model> network, Batch batch, bool autocast) {
  // Rounded as autocast rounds: the first loss is that of the other variants.
  optim::set_weight_dtype(*network, at::kBFloat16);
  auto optimizer = std::make_shared<optim::Adam>(
      network->parameters(), optim::AdamOptions(learning_rate).master_weights(kind));
  return raw_loop(std::move(network), std::move(batch), autocast, std::move(optimizer));
}

/// A whole step recorded and replayed: bfloat16 shadows and gradients, as the fastest eager
/// variant.
class Recorded : public Graph<at::Tensor(at::Tensor, at::Tensor)> {
 public:
  Recorded(std::shared_ptr<train::Model> network, bool autocast, bool lowers_convolutions)
      : network_(register_module("network", std::move(network))),
        adam_(network_->parameters(), adam_options(autocast)) {
    config()
        .enable_amp(autocast, at::kBFloat16)
        .enable_pass("lower_convolutions", lowers_convolutions);
    add_optimizer(adam_);
  }
  at::Tensor build(const at::Tensor& input, const at::Tensor& target) override {
    auto loss = at::cross_entropy_loss(network_->forward(input), target);
    loss.backward();
    return loss;
  }

 private:
  static optim::AdamOptions adam_options(bool autocast) {
    optim::AdamOptions options(learning_rate);
    options.capturable();
    if (autocast) options.shadow_weights(at::kBFloat16);
    return options;
  }

  std::shared_ptr<train::Model> network_;
  optim::Adam adam_;
};

struct RecordedStep {
  std::shared_ptr<Recorded> graph;
  Batch batch;
  at::Tensor operator()() const { return (*graph)(batch.input, batch.target); }
};

template <bool lowers_convolutions = false>
Step recorded(std::shared_ptr<train::Model> network, Batch batch, bool autocast) {
  if (autocast) optim::set_gradient_dtype(network->parameters(), at::kBFloat16);
  return RecordedStep{std::make_shared<Recorded>(std::move(network), autocast, lowers_convolutions),
                      std::move(batch)};
}

}  // namespace

int64_t recorded_steps(const Step& step) {
  const auto* recorded = step.target<RecordedStep>();
  return recorded == nullptr ? 0 : recorded->graph->recorded_steps();
}

const std::vector<Variant>& variants() {
  static const char* const adam = "halfstep::optim::Adam";
  static const char* const adam_channels_last = "halfstep::optim::Adam, channels_last";
  static const std::vector<Variant> all{
      {"torch::optim::Adam", false, false, "", with_torch_adam},
      {adam, false, false, "", with_fused_adam},
      {"halfstep::optim::Adam, shadows", false, false, adam, with_shadow_weights},
      {"halfstep::optim::Adam, shadows, bf16 gradients", false, false, adam,
       with_bfloat16_gradients},
      {"halfstep::optim::Adam, masters", false, false, adam,
       with_masters<optim::MasterWeights::float32>},
      {"halfstep::optim::Adam, masters as remainders", false, false, adam,
       with_masters<optim::MasterWeights::remainder>},
      {adam_channels_last, true, true, "", with_fused_adam},
      {"halfstep::optim::Adam, channels_last, shadows, bf16 gradients", true, true,
       adam_channels_last, with_bfloat16_gradients},
      {"halfstep::Graph", false, false, "", recorded<>},
      {"halfstep::Graph, channels_last", true, true, "", recorded<>},
      {"halfstep::Graph, channels_last, lowered convolutions", true, true, "", recorded<true>},
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
