// A replayed step has the bits of the eager one.
#include "halfstep/autocast.h"
#include "halfstep/graph.h"
#include "halfstep/nn.h"
#include "halfstep/optim.h"
#include "halfstep/scaling.h"

#include <memory>

#include <torch/optim.h>

#include "tests/graph/steps.h"
#include "tests/support/devices.h"
#include "tests/support/thread_count.h"
#include <gtest/gtest.h>

namespace {

using halfstep::Autocast;
using halfstep::AutocastOptions;
using halfstep::GradScaler;
using halfstep::GradScalerOptions;
using halfstep::Graph;
using halfstep::testing::ConvNet;
using halfstep::testing::Mlp;
using halfstep::testing::same_bits;
using halfstep::testing::state_of;
using torch::Tensor;
namespace F = torch::nn::functional;

constexpr int kSteps = 6;

/// Trains a net on classes, with whatever its test sets.
template <class Net>
struct ReplayTrain : Graph<Tensor(Tensor, Tensor)> {
  explicit ReplayTrain(Net its_net) : net(register_module("net", its_net)) {}
  Tensor build(const Tensor& x, const Tensor& y) override {
    const auto loss = F::cross_entropy(net->forward(x), y);
    loss.backward();
    return loss;
  }
  Net net;
};

struct Batches {
  std::vector<Tensor> x, y;
  Batches(at::IntArrayRef sizes, c10::Device device) {
    torch::manual_seed(11);
    for (int i = 0; i < kSteps; ++i) {
      x.push_back(torch::randn(sizes, device));
      y.push_back(torch::randint(4, {sizes[0]}, at::TensorOptions(device).dtype(torch::kLong)));
    }
  }
};

enum class Kind {
  adam,
  adam_clipped,
  adam_shadows,
  torch_sgd,
  torch_adam,
  torch_adamw,
  torch_adagrad,
  torch_rmsprop
};

template <class Net>
std::unique_ptr<torch::optim::Optimizer> make_optimizer(Kind kind, const Net& net) {
  using halfstep::optim::Adam;
  using halfstep::optim::AdamOptions;
  switch (kind) {
    case Kind::adam:
      return std::make_unique<Adam>(net->parameters(), AdamOptions(1e-2));
    case Kind::adam_clipped:
      return std::make_unique<Adam>(net->parameters(), AdamOptions(1e-2).clip_norm(0.05));
    case Kind::adam_shadows: {
      auto adam = std::make_unique<Adam>(net->parameters(), AdamOptions(1e-2));
      adam->keep_shadow_weights(torch::kBFloat16);
      return adam;
    }
    case Kind::torch_sgd:
      return std::make_unique<torch::optim::SGD>(net->parameters(),
                                                 torch::optim::SGDOptions(0.05).momentum(0.9));
    case Kind::torch_adam:
      return std::make_unique<torch::optim::Adam>(net->parameters(), 1e-2);
    case Kind::torch_adamw:
      return std::make_unique<torch::optim::AdamW>(net->parameters(), 1e-2);
    case Kind::torch_adagrad:
      return std::make_unique<torch::optim::Adagrad>(net->parameters(), 1e-2);
    case Kind::torch_rmsprop:
      return std::make_unique<torch::optim::RMSprop>(net->parameters(), 1e-2);
  }
  return nullptr;
}

struct Run {
  std::vector<Tensor> losses, state;
};

template <class Net>
Run eager(Net net, Kind kind, bool amp, const Batches& batches, GradScaler* scaler = nullptr,
          c10::ScalarType dtype = torch::kBFloat16) {
  const auto optimizer = make_optimizer(kind, net);
  Run run;
  torch::manual_seed(3);
  for (int i = 0; i < kSteps; ++i) {
    Tensor loss;
    {
      const Autocast autocast(
          AutocastOptions(batches.x[0].device().type()).enabled(amp).dtype(dtype));
      loss = F::cross_entropy(net->forward(batches.x[i]), batches.y[i]);
    }
    run.losses.push_back(loss.detach().clone());
    (scaler != nullptr ? scaler->scale(loss) : loss).backward();
    if (scaler != nullptr) {
      scaler->step(*optimizer);
      scaler->update();
    } else {
      optimizer->step();
    }
    optimizer->zero_grad();
  }
  run.state = state_of(*net);
  return run;
}

template <class Net>
Run replayed(Net net, Kind kind, bool amp, const Batches& batches, GradScaler* scaler = nullptr,
             c10::ScalarType dtype = torch::kBFloat16) {
  const auto optimizer = make_optimizer(kind, net);
  ReplayTrain<Net> train(net);
  train.config().enable_amp(amp, dtype);
  train.add_optimizer(*optimizer);
  if (scaler != nullptr) train.set_grad_scaler(*scaler);
  Run run;
  torch::manual_seed(3);
  for (int i = 0; i < kSteps; ++i) run.losses.push_back(train(batches.x[i], batches.y[i]).clone());
  EXPECT_EQ(train.recorded_steps(), 2) << train.last_reason();
  EXPECT_EQ(train.replayed_steps(), kSteps - 2);
  run.state = state_of(*net);
  return run;
}

/// With the same weights at each call.
template <class Net>
Net make_net(c10::Device device) {
  torch::manual_seed(1);
  Net net;
  net->to(device);
  return net;
}

template <class Net>
void expect_same(Kind kind, bool amp, const Batches& batches) {
  const auto device = batches.x[0].device();
  const auto before = state_of(*make_net<Net>(device));
  const auto expected = eager(make_net<Net>(device), kind, amp, batches);
  const auto got = replayed(make_net<Net>(device), kind, amp, batches);
  EXPECT_TRUE(same_bits(expected.losses, got.losses));
  EXPECT_TRUE(same_bits(expected.state, got.state));
  EXPECT_FALSE(same_bits(before, got.state)) << "nothing was trained";
}

class GraphReplay : public halfstep::testing::DeviceTest {
  halfstep::testing::ThreadCount one_thread_{1};
};

TEST_P(GraphReplay, MlpHasTheBitsOfEager) {
  for (const auto kind :
       {Kind::adam, Kind::adam_clipped, Kind::adam_shadows, Kind::torch_sgd, Kind::torch_adam,
        Kind::torch_adamw, Kind::torch_adagrad, Kind::torch_rmsprop}) {
    for (const bool amp : {false, true}) {
      SCOPED_TRACE(c10::str("optimizer ", int(kind), " amp ", amp));
      expect_same<Mlp>(kind, amp, Batches({8, 12}, device()));
    }
  }
}

TEST_P(GraphReplay, ConvNetWithBatchNormAndDropoutHasTheBitsOfEager) {
  for (const bool amp : {false, true})
    expect_same<ConvNet>(Kind::adam_shadows, amp, Batches({8, 1, 8, 8}, device()));
}

HALFSTEP_ON_EACH_DEVICE(GraphReplay);

}  // namespace
