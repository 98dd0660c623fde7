// Why scaling exists: gradients of a small loss are below float16's smallest number.
#include "halfstep/autocast/autocast.h"
#include "halfstep/autocast/half_rehearsal.h"
#include "halfstep/scaling/grad_scaler.h"

#include <torch/torch.h>

#include "tests/support/devices.h"
#include "tests/support/tolerance.h"
#include <gtest/gtest.h>

namespace halfstep {

class Underflow : public testing::DeviceTest {
 protected:
  static constexpr double kWeight = 1e-6;

  struct Result {
    double first_loss = 0, last_loss = 0;
    bool any_gradient = false;
    std::vector<torch::Tensor> moved;  // of each parameter
  };

  Result train(bool half, bool scaled) const {
    torch::manual_seed(0);
    torch::nn::Sequential net(torch::nn::Linear(8, 32), torch::nn::ReLU(),
                              torch::nn::Linear(32, 1));
    net->to(device());
    const auto x = torch::randn({128, 8}).to(device());
    const auto y = x.sum(1, /*keepdim=*/true).tanh();
    std::vector<torch::Tensor> start;
    for (const auto& p : net->parameters()) start.push_back(p.detach().clone());

    torch::optim::SGD optimizer(net->parameters(), 0.1 / kWeight);
    GradScaler scaler(GradScalerOptions(GetParam()).enabled(scaled));
    const HalfRehearsal rehearsal;
    Result result;
    for (int step = 0; step < 100; ++step) {
      optimizer.zero_grad();
      torch::Tensor error;
      {
        const Autocast autocast(AutocastOptions(GetParam()).enabled(half).dtype(torch::kHalf));
        error = torch::mse_loss(net->forward(x), y);
      }
      scaler.scale(kWeight * error).backward();
      for (const auto& p : net->parameters())
        result.any_gradient = result.any_gradient || p.grad().any().item<bool>();
      scaler.step(optimizer);
      scaler.update();
      result.last_loss = error.item<double>();
      if (step == 0) result.first_loss = result.last_loss;
    }
    for (size_t i = 0; i < start.size(); ++i)
      result.moved.push_back(net->parameters()[i].detach() - start[i]);
    return result;
  }
};
HALFSTEP_ON_EACH_DEVICE(Underflow);

TEST_P(Underflow, Float16WithoutAScalerStandsStill) {
  const auto run = train(true, false);
  EXPECT_FALSE(run.any_gradient);
  EXPECT_EQ(run.last_loss, run.first_loss);
  for (const auto& moved : run.moved) EXPECT_FALSE(moved.any().item<bool>());
}

TEST_P(Underflow, Float16WithAScalerLearnsAsFloat32Does) {
  const auto single = train(false, false), half = train(true, true);
  ASSERT_LT(single.last_loss, 0.2 * single.first_loss);
  EXPECT_TRUE(half.any_gradient);
  EXPECT_NEAR(half.last_loss, single.last_loss, 0.02 * single.first_loss);
  for (size_t i = 0; i < half.moved.size(); ++i) {
    const auto difference = (half.moved[i] - single.moved[i]).norm().item<double>();
    EXPECT_LT(difference, 0.05 * single.moved[i].norm().item<double>());
  }
}

}  // namespace halfstep
