// Shadow weights that a fused optimizer keeps: autocast takes them, to the same bits.
#include "halfstep/autocast/autocast.h"
#include "halfstep/autocast/shadow_weights.h"
#include "halfstep/optim.h"
#include "halfstep/scaling/grad_scaler.h"

#include <limits>

#include <ATen/ops/cross_entropy_loss.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/linear.h>
#include <torch/types.h>
#include <torch/utils.h>

#include "tests/optim/make_optimizer.h"
#include "tests/support/devices.h"
#include "tests/support/errors.h"
#include "tests/support/tolerance.h"

namespace halfstep::testing {

using optim::AdamOptions;
using optim::FusedOptimizer;
using optim::Kernel;

class KeptShadows : public DeviceTest {
 protected:
  at::TensorOptions here() const { return torch::device(device()); }

  torch::nn::Sequential network() const {
    torch::manual_seed(3);
    torch::nn::Sequential net(torch::nn::Conv2d(1, 4, 3), torch::nn::Flatten(),
                              torch::nn::Linear(4 * 36, 10));
    net->to(device());
    return net;
  }

  at::Tensor loss(torch::nn::Sequential& net, int step) const {
    torch::manual_seed(100 + step);
    const auto input = torch::randn({5, 1, 8, 8}, here());
    const auto target = torch::randint(10, {5}, here().dtype(torch::kLong));
    const Autocast region(AutocastOptions(GetParam()).dtype(torch::kBFloat16));
    return at::cross_entropy_loss(net->forward(input), target);
  }
};
HALFSTEP_ON_EACH_DEVICE(KeptShadows);

// Three steps, an overflow, three steps.
TEST_P(KeptShadows, TheRunIsTheSameToTheBit) {
  for (const auto& name : kFusedClasses) {
    for (const auto kernel : {Kernel::automatic, Kernel::aten}) {
      SCOPED_TRACE(name);
      auto with = network(), without = network();
      const auto keeps = make_fused(name, with->parameters(), false, kernel);
      const auto casts = make_fused(name, without->parameters(), false, kernel);
      auto& fused = dynamic_cast<FusedOptimizer&>(*keeps);
      fused.keep_shadow_weights(torch::kBFloat16);
      GradScaler ours(GradScalerOptions(GetParam()).init_scale(8));
      GradScaler theirs(GradScalerOptions(GetParam()).init_scale(8));
      for (int step = 0; step < 7; ++step) {
        const auto uses = ShadowWeights::uses();
        for (auto& [net, optimizer, scaler] :
             {std::tie(with, keeps, ours), {without, casts, theirs}}) {
          optimizer->zero_grad();
          scaler.scale(loss(net, step)).backward();
          if (step == 3) net->parameters()[0].mutable_grad().view(-1)[1] = NAN;
          EXPECT_EQ(scaler.step(*optimizer).stepped(), step != 3);
          scaler.update();
        }
        EXPECT_EQ(ShadowWeights::uses() - uses, 4) << "two weights and two biases";
        for (size_t i = 0; i < with->parameters().size(); ++i) {
          const auto p = with->parameters()[i];
          expect_same_bits(p, without->parameters()[i]);
          expect_same_bits(fused.shadow_of(p), p.detach().to(torch::kBFloat16));
        }
      }
    }
  }
}

TEST_P(KeptShadows, OfAnyLayoutAndOnlyWhereACastWouldBe) {
  const auto strided = torch::randn({6, 4}, here()).slice(1, 0, 4, 2).requires_grad_();
  const auto transposed = torch::randn({3, 5}, here()).t().requires_grad_();
  const auto half = torch::randn({3}, here().dtype(torch::kBFloat16)).requires_grad_();
  const auto frozen = torch::randn({3}, here());
  optim::Adam adam({strided, transposed, half, frozen},
                   AdamOptions(0.1).shadow_weights(torch::kHalf));
  EXPECT_FALSE(adam.shadow_of(half).defined());
  EXPECT_FALSE(adam.shadow_of(frozen).defined());
  for (int step = 0; step < 2; ++step) {
    for (const auto& p : {strided, transposed}) {
      p.mutable_grad() = torch::randn_like(p);
      const auto before = p.detach().clone();
      adam.step();
      EXPECT_FALSE(before.equal(p));
      expect_same_bits(adam.shadow_of(p), p.detach().to(torch::kHalf));
    }
  }
}

// What somebody else wrote must not be taken for written by the step.
TEST_P(KeptShadows, AWeightThatTheStepLeftAloneIsCastAgain) {
  const auto moved = torch::ones({2, 2}, here()).requires_grad_();
  const auto left = torch::ones({2, 2}, here()).requires_grad_();
  optim::SGD sgd({moved, left}, optim::SGDOptions(0.5).shadow_weights(torch::kBFloat16));
  {
    const torch::NoGradGuard no_grad;
    left.mul_(3);
  }
  moved.mutable_grad() = torch::ones_like(moved);
  sgd.step();
  const Autocast region(AutocastOptions(GetParam()).dtype(torch::kBFloat16));
  const auto input = torch::ones({1, 2}, here());
  EXPECT_EQ(torch::mm(input, left)[0][0].item<float>(), 6);
  EXPECT_EQ(torch::mm(input, moved)[0][0].item<float>(), 1);
}

TEST_P(KeptShadows, GroupsThatAreAddedLaterHaveThemToo) {
  const auto first = torch::ones({2}, here()).requires_grad_();
  const auto second = torch::ones({2}, here()).requires_grad_();
  optim::Adam adam({first}, AdamOptions(0.5).shadow_weights(torch::kBFloat16));
  adam.add_param_group(torch::optim::OptimizerParamGroup({second}));
  second.mutable_grad() = torch::ones_like(second);
  adam.step();
  EXPECT_EQ(adam.shadow_of(second)[0].item<float>(), 0.5F);
}

TEST_P(KeptShadows, AGroupThatWasRefusedLeavesNothing) {
  const auto first = torch::ones({2}, here()).requires_grad_();
  const auto leaf = torch::ones({2}, here()).requires_grad_();
  optim::Adam adam({first}, AdamOptions(0.5));
  adam.keep_shadow_weights(torch::kBFloat16);
  EXPECT_ERROR(adam.add_param_group(torch::optim::OptimizerParamGroup({leaf, leaf * 2})),
               UsageError, "must be leaves", "group 1");
  adam.add_param_group(
      torch::optim::OptimizerParamGroup({leaf}, std::make_unique<AdamOptions>(AdamOptions(0.25))));
  EXPECT_TRUE(adam.shadow_of(leaf).defined());
}

TEST_P(KeptShadows, CanBeDropped) {
  const auto p = torch::ones({2}, here()).requires_grad_();
  optim::Adam adam({p}, AdamOptions(0.5).shadow_weights(torch::kHalf));
  adam.drop_shadow_weights();
  EXPECT_FALSE(adam.keeps_shadow_weights());
  EXPECT_FALSE(adam.shadow_of(p).defined());
  adam.keep_shadow_weights(torch::kBFloat16);
  EXPECT_EQ(adam.shadow_of(p).scalar_type(), torch::kBFloat16);
}

TEST_P(KeptShadows, Misuse) {
  const auto p = torch::ones({2}, here()).requires_grad_();
  EXPECT_ERROR(optim::Adam({p}, AdamOptions().shadow_weights(torch::kFloat)), UsageError,
               "must be float16 or bfloat16");
  optim::Adam adam({p}, AdamOptions().shadow_weights(torch::kBFloat16));
  EXPECT_ERROR(adam.keep_shadow_weights(torch::kHalf), UsageError, "[Adam]", "keeps them already");
  EXPECT_ERROR(optim::SGD({p}, optim::SGDOptions(0.1).shadow_weights(torch::kHalf)), UsageError,
               "must have one copy");
  optim::SGD sgd({p}, optim::SGDOptions(0.1));
  EXPECT_ERROR(sgd.keep_shadow_weights(torch::kHalf), UsageError, "must have one copy");
  EXPECT_FALSE(sgd.shadow_of(p).defined());
  p.mutable_grad() = torch::ones_like(p);
  sgd.step();
}

}  // namespace halfstep::testing
