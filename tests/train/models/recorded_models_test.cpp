// The trainer's networks in a Graph have the bits of eager steps.
#include "halfstep/autocast.h"
#include "halfstep/graph.h"
#include "halfstep/optim.h"
#include "halfstep/train/models/gpt.h"
#include "halfstep/train/models/resnet.h"

#include <memory>

#include "tests/graph/steps.h"
#include "tests/support/thread_count.h"
#include <gtest/gtest.h>

namespace {

using halfstep::testing::same_bits;
using halfstep::testing::state_of;
using halfstep::train::Model;
using torch::Tensor;

constexpr int kSteps = 4;

struct Train : halfstep::Graph<Tensor(Tensor, Tensor)> {
  explicit Train(std::shared_ptr<Model> its_net) : net(register_module("net", its_net)) {}
  Tensor build(const Tensor& x, const Tensor& y) override {
    const auto loss = torch::cross_entropy_loss(net->forward(x), y);
    loss.backward();
    return loss;
  }
  std::shared_ptr<Model> net;
};

/// bfloat16 weights' copies kept by the optimizer, gradients in bfloat16: what the trainer does.
std::unique_ptr<halfstep::optim::Adam> make_adam(const std::shared_ptr<Model>& net) {
  halfstep::optim::set_gradient_dtype(net->parameters(), torch::kBFloat16);
  return std::make_unique<halfstep::optim::Adam>(
      net->parameters(), halfstep::optim::AdamOptions(1e-2).shadow_weights(torch::kBFloat16));
}

template <class Make>
void expect_same(const Make& make, const Tensor& x, const Tensor& y) {
  const halfstep::testing::ThreadCount one_thread(1);
  std::vector<Tensor> losses[2], states[2];
  {
    const auto net = make();
    const auto adam = make_adam(net);
    for (int i = 0; i < kSteps; ++i) {
      Tensor loss;
      {
        const halfstep::Autocast autocast(
            halfstep::AutocastOptions(torch::kCPU).dtype(torch::kBFloat16));
        loss = torch::cross_entropy_loss(net->forward(x), y);
      }
      loss.backward();
      adam->step();
      adam->zero_grad();
      losses[0].push_back(loss.detach());
    }
    states[0] = state_of(*net);
  }
  {
    Train train(make());
    const auto adam = make_adam(train.net);
    train.add_optimizer(*adam);
    train.config().enable_amp(true, torch::kBFloat16);
    for (int i = 0; i < kSteps; ++i) losses[1].push_back(train(x, y));
    EXPECT_EQ(train.replayed_steps(), kSteps - 2) << train.last_reason();
    EXPECT_NE(train.program().find("shadow of"), std::string::npos) << "no shadow was used";
    states[1] = state_of(*train.net);
  }
  EXPECT_TRUE(same_bits(losses[0], losses[1]));
  EXPECT_TRUE(same_bits(states[0], states[1]));
  EXPECT_FALSE(at::equal(losses[0].front(), losses[0].back())) << "nothing was trained";
}

TEST(RecordedModels, Gpt) {
  halfstep::train::Gpt::Options options;
  options.layers = 2;
  options.width = 32;
  options.heads = 2;
  torch::manual_seed(4);
  const auto x = torch::randint(256, {2, 16}, torch::kLong);
  const auto y = torch::randint(256, {2 * 16}, torch::kLong);
  expect_same(
      [&] {
        torch::manual_seed(1);
        return std::make_shared<halfstep::train::Gpt>(options);
      },
      x, y);
}

TEST(RecordedModels, ResNet18) {
  halfstep::train::ResNet18::Options options;
  options.width = 8;
  torch::manual_seed(4);
  const auto x = torch::rand({2, 1, 28, 28});
  const auto y = torch::randint(10, {2}, torch::kLong);
  expect_same(
      [&] {
        torch::manual_seed(1);
        return std::make_shared<halfstep::train::ResNet18>(options);
      },
      x, y);
}

}  // namespace
