// What masters are for: a network in bfloat16 that trains as mixed precision does, in less memory.
#include "halfstep/autocast/autocast.h"
#include "halfstep/optim.h"

#include <ATen/ops/mse_loss.h>
#include <torch/nn/modules/activation.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/linear.h>
#include <torch/types.h>
#include <torch/utils.h>

#include "tests/optim/make_optimizer.h"
#include "tests/support/devices.h"

namespace halfstep::testing {

using optim::AdamOptions;
using optim::MasterWeights;

class MasterTraining : public DeviceTest {
 protected:
  at::TensorOptions here() const { return torch::device(device()); }

  torch::nn::Sequential network(c10::ScalarType dtype) const {
    torch::manual_seed(3);
    torch::nn::Sequential net(torch::nn::Linear(16, 64), torch::nn::BatchNorm1d(64),
                              torch::nn::Tanh(), torch::nn::Linear(64, 1));
    net->to(device());
    for (const auto i : {0, 3}) net[size_t(i)]->to(dtype);  // the batch norm stays in float32
    return net;
  }

  at::Tensor loss(torch::nn::Sequential& net) const {
    torch::manual_seed(5);
    const auto input = torch::randn({128, 16}, here());
    const auto goal = torch::sin(input.slice(1, 0, 4).sum(1, true));
    const Autocast region(AutocastOptions(GetParam()).dtype(torch::kBFloat16));
    return at::mse_loss(net->forward(input), goal);
  }

  std::vector<float> curve(c10::ScalarType dtype, const AdamOptions& options) const {
    auto net = network(dtype);
    optim::Adam adam(net->parameters(), options);
    std::vector<float> losses;
    for (int step = 0; step < 150; ++step) {
      adam.zero_grad();
      const auto value = loss(net);
      value.backward();
      adam.step();
      losses.push_back(value.item<float>());
    }
    return losses;
  }
};
HALFSTEP_ON_EACH_DEVICE(MasterTraining);

TEST_P(MasterTraining, TheCurveIsThatOfMixedPrecisionWhereBfloat16AloneStandsStill) {
  for (const auto kernel : {optim::Kernel::automatic, optim::Kernel::aten}) {
    const auto options = AdamOptions(1e-4).kernel(kernel);
    const auto amp = curve(torch::kFloat, options);
    const auto alone = curve(torch::kBFloat16, options);
    ASSERT_LT(amp.back(), 0.8 * amp.front()) << "nothing was learned";
    const auto learned = [](const std::vector<float>& losses) {
      return losses.front() - losses.back();
    };
    EXPECT_LT(learned(alone), 0.5 * learned(amp));
    for (const auto kind : {MasterWeights::float32, MasterWeights::remainder}) {
      auto with = options;
      const auto masters = curve(torch::kBFloat16, with.master_weights(kind));
      for (size_t i = 0; i < amp.size(); ++i)
        EXPECT_NEAR(masters[i], amp[i], 0.01 * amp.front()) << i;
    }
  }
}

TEST_P(MasterTraining, BytesAreThoseOfTheTable) {
  struct Row {
    c10::ScalarType weights;
    bool low_gradients;
    AdamOptions options;
    int64_t weight, gradient, beside;
  };
  const Row rows[] = {
      {torch::kFloat, false, AdamOptions(), 4, 4, 0},
      {torch::kFloat, true, AdamOptions().shadow_weights(torch::kBFloat16), 4, 2, 2},
      {torch::kBFloat16, false, AdamOptions().master_weights(MasterWeights::float32), 2, 2, 4},
      {torch::kBFloat16, false, AdamOptions().master_weights(MasterWeights::remainder), 2, 2, 2}};
  for (const auto& row : rows) {
    SCOPED_TRACE(c10::str(row.weight, " + ", row.gradient, " + ", row.beside));
    auto net = network(row.weights);
    std::vector<at::Tensor> matrices;
    for (const auto& p : net->parameters())
      if (p.scalar_type() == row.weights && p.dim() == 2) matrices.push_back(p);
    if (row.low_gradients) optim::set_gradient_dtype(net->parameters(), torch::kBFloat16);
    optim::Adam adam(net->parameters(), row.options);
    loss(net).backward();
    adam.step();
    int64_t count = 0, weight = 0, gradient = 0, beside = 0, buffers = 0;
    for (const auto& p : matrices) {
      const auto bytes = [](const at::Tensor& t) {
        return t.defined() ? static_cast<int64_t>(t.storage().nbytes()) : 0;
      };
      const auto& state =
          static_cast<optim::FusedState&>(*adam.state().at(p.unsafeGetTensorImpl()));
      count += p.numel();
      weight += bytes(p);
      gradient += bytes(p.grad());
      beside += bytes(adam.shadow_of(p)) + bytes(state.master);
      for (const auto& buffer : state.buffers) buffers += bytes(buffer);
    }
    EXPECT_EQ(count, 16 * 64 + 64);
    EXPECT_EQ(weight, row.weight * count);
    EXPECT_EQ(gradient, row.gradient * count);
    EXPECT_EQ(beside, row.beside * count);
    EXPECT_EQ(buffers, 8 * count) << "exp_avg and exp_avg_sq, in float32 in each row";
  }
}

}  // namespace halfstep::testing
