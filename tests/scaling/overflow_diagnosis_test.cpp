// Overflows that no scale ends: whose gradients, since when, and what then.
#include "halfstep/scaling/overflow_diagnosis.h"

#include "halfstep/core/error.h"
#include "halfstep/scaling/grad_scaler.h"

#include <torch/nn.h>
#include <torch/optim/adam.h>
#include <torch/optim/sgd.h>

#include "tests/scaling/fused_for_tests.h"
#include "tests/support/devices.h"
#include "tests/support/errors.h"
#include "tests/support/special_values.h"

namespace halfstep::testing {

namespace {

/// Three layers. `broken`: the square root of 0 between the second and the third, whose gradient is
/// inf, so the first and the second layer's gradients are not finite and the third's are.
struct Net : torch::nn::Module {
  Net() {
    torch::manual_seed(1);
    first = register_module("first", torch::nn::Linear(4, 4));
    second = register_module("second", torch::nn::Linear(4, 4));
    third = register_module("third", torch::nn::Linear(4, 1));
  }
  at::Tensor forward(const at::Tensor& input) {
    auto hidden = second->forward(torch::tanh(first->forward(input)));
    if (broken) hidden = torch::sqrt(hidden * 0);
    return third->forward(hidden).sum();
  }
  torch::nn::Linear first{nullptr}, second{nullptr}, third{nullptr};
  bool broken = false;
};

}  // namespace

class OverflowDiagnoses : public DeviceTest {
 protected:
  void SetUp() override {
    DeviceTest::SetUp();
    if (IsSkipped()) return;
    net.to(device());
  }
  GradScalerOptions options() const {
    return GradScalerOptions(GetParam()).init_scale(4).min_scale(1);
  }
  void iterate(GradScaler& scaler, torch::optim::Optimizer& optimizer) {
    optimizer.zero_grad();
    scaler.scale(net.forward(torch::ones({2, 4}, device()))).backward();
    scaler.step(optimizer);
    scaler.update();
  }
  Net net;
};
HALFSTEP_ON_EACH_DEVICE(OverflowDiagnoses);

/// For tests that count updates: on CUDA the host learns of an overflow after a fixed number.
#define HALFSTEP_KNOWN_AT_ONCE() \
  if (GetParam() == c10::kCUDA) GTEST_SKIP() << "see OnAGpuItIsKnownSomeUpdatesLater"

TEST_P(OverflowDiagnoses, OnAGpuItIsKnownSomeUpdatesLater) {
  // At most two reads of eight updates each: one from before the overflows, one of them.
  const int most = GetParam() == c10::kCUDA ? 18 : 2;
  for (const auto policy : {AtMinScale::fall_back, AtMinScale::stop}) {
    net.broken = false;
    GradScaler scaler(options().init_scale(1).at_min_scale(policy).min_scale_patience(2));
    scaler.name_parameters(net.named_parameters());
    torch::optim::SGD optimizer(net.parameters(), 0.01);
    for (int i = 0; i < 3; ++i) iterate(scaler, optimizer);
    net.broken = true;
    int updates = 0;
    bool stopped = false;
    while (!scaler.diagnosis() && !stopped && updates < 50) {
      ++updates;
      try {
        iterate(scaler, optimizer);
      } catch (const UsageError&) {
        stopped = true;
      }
    }
    EXPECT_LE(updates, most);
    EXPECT_EQ(stopped, policy == AtMinScale::stop);
    ASSERT_TRUE(scaler.diagnosis().has_value());
    EXPECT_EQ(scaler.diagnosis()->overflowing_since, 4);
    EXPECT_GE(scaler.diagnosis()->in_a_row_at_minimum, 2);
    ASSERT_EQ(scaler.diagnosis()->non_finite.size(), 4u);
    EXPECT_EQ(scaler.diagnosis()->non_finite[0].parameter, "first.weight");
    if (stopped) continue;
    net.broken = false;
    for (int i = 0; i < most; ++i) iterate(scaler, optimizer);
    EXPECT_FALSE(scaler.diagnosis().has_value()) << "overflows have ended";
  }
}

TEST_P(OverflowDiagnoses, StopsWithTheNamesOfTheFirstGradients) {
  HALFSTEP_KNOWN_AT_ONCE();
  for (const bool fused : {false, true}) {
    SCOPED_TRACE(fused ? "fused" : "Adam");
    net.broken = false;
    GradScaler scaler(options().at_min_scale(AtMinScale::stop).min_scale_patience(3));
    scaler.name_parameters(net.named_parameters());
    std::unique_ptr<torch::optim::Optimizer> optimizer;
    if (fused)
      optimizer =
          std::make_unique<FusedForTests>(net.parameters(), FusedForTests::Kind::adam, 0.01);
    else
      optimizer = std::make_unique<torch::optim::Adam>(net.parameters(), 0.01);
    for (int i = 0; i < 2; ++i) iterate(scaler, *optimizer);
    net.broken = true;
    const auto before = net.first->weight.detach().clone();
    for (int i = 0; i < 4; ++i) iterate(scaler, *optimizer);  // 4 -> 2 -> 1, twice at 1
    EXPECT_FALSE(scaler.diagnosis().has_value());
    EXPECT_ERROR(iterate(scaler, *optimizer), UsageError,
                 "[GradScaler::update] overflows must end once the scale is at its minimum, but "
                 "update 7 overflowed (3 in a row at the minimum scale 1), as every update since 3 "
                 "did; not finite: the gradients of 4 of 6 parameters, first those of "
                 "'first.weight', 'first.bias', 'second.weight', 'second.bias' (seen from update 5 "
                 "on); look at the operations that use these parameters");
    EXPECT_TRUE(torch::equal(net.first->weight, before)) << "no step was taken";
  }
}

TEST_P(OverflowDiagnoses, FallBackIsTheCallersToMake) {
  HALFSTEP_KNOWN_AT_ONCE();
  GradScaler scaler(options().at_min_scale(AtMinScale::fall_back).min_scale_patience(2));
  torch::optim::SGD optimizer(net.parameters(), 0.01);
  net.broken = true;
  int updates = 0;
  while (!scaler.diagnosis() && updates < 50) {
    iterate(scaler, optimizer);
    ++updates;
  }
  EXPECT_EQ(updates, 4);
  ASSERT_TRUE(scaler.diagnosis().has_value());
  EXPECT_EQ(scaler.diagnosis()->update, 4);
  EXPECT_EQ(scaler.diagnosis()->overflowing_since, 1);
  EXPECT_EQ(scaler.diagnosis()->in_a_row_at_minimum, 2);
  EXPECT_EQ(scaler.diagnosis()->scale, 1);
  EXPECT_EQ(scaler.diagnosis()->gradients, 6);
  ASSERT_EQ(scaler.diagnosis()->non_finite.size(), 4u);
  EXPECT_EQ(scaler.diagnosis()->non_finite[3].parameter, "optimizer 0, group 0, parameter 3");
  EXPECT_FALSE(scaler.diagnosis()->non_finite[3].parameter_too);
  iterate(scaler, optimizer);
  EXPECT_EQ(scaler.diagnosis()->in_a_row_at_minimum, 3) << "it goes on until the caller acts";
  net.broken = false;
  iterate(scaler, optimizer);
  EXPECT_FALSE(scaler.diagnosis().has_value());
}

TEST_P(OverflowDiagnoses, ThoseThatBeganFirstComeFirst) {
  HALFSTEP_KNOWN_AT_ONCE();
  auto one = torch::ones({2}, torch::device(device()).requires_grad(true));
  auto two = torch::ones({2}, torch::device(device()).requires_grad(true));
  torch::optim::SGD optimizer({one, two}, 0.01);
  GradScaler scaler(options().init_scale(1).at_min_scale(AtMinScale::fall_back));
  const auto update = [&](float first, float second) {
    scaler.scale(torch::ones({}, device()));
    one.mutable_grad() = torch::full({2}, first, device());
    two.mutable_grad() = torch::full({2}, second, device());
    scaler.step(optimizer);
    scaler.update();
  };
  update(1, 1);
  update(1, kNan);
  update(kNan, kNan);
  ASSERT_TRUE(scaler.diagnosis().has_value());
  const auto& found = scaler.diagnosis()->non_finite;
  ASSERT_EQ(found.size(), 2u);
  EXPECT_EQ(found[0].parameter, "optimizer 0, group 0, parameter 1");
  EXPECT_EQ(found[0].since_update, 2);
  EXPECT_EQ(found[1].parameter, "optimizer 0, group 0, parameter 0");
  EXPECT_EQ(found[1].since_update, 3);
  update(kNan, 1);  // well again: only those that are not finite now are listed
  ASSERT_EQ(scaler.diagnosis()->non_finite.size(), 1u);
  EXPECT_EQ(scaler.diagnosis()->non_finite[0].since_update, 3);
  update(kNan, kNan);
  ASSERT_EQ(scaler.diagnosis()->non_finite.size(), 2u);
  EXPECT_EQ(scaler.diagnosis()->non_finite[1].since_update, 5) << "it had recovered";
}

TEST_P(OverflowDiagnoses, AskedForAtAnyScale) {
  GradScaler scaler(GradScalerOptions(GetParam()).init_scale(64));
  scaler.name_parameters(net.named_parameters());
  torch::optim::SGD optimizer(net.parameters(), 0.01);
  scaler.diagnose_next_update();
  iterate(scaler, optimizer);
  EXPECT_FALSE(scaler.diagnosis().has_value()) << "there was no overflow";
  net.broken = true;
  iterate(scaler, optimizer);
  EXPECT_FALSE(scaler.diagnosis().has_value()) << "nobody asked";
  scaler.diagnose_next_update();
  iterate(scaler, optimizer);
  ASSERT_TRUE(scaler.diagnosis().has_value());
  EXPECT_EQ(scaler.diagnosis()->what(),
            "update 3 overflowed, as every update since 2 did; not finite: the gradients of 4 of 6 "
            "parameters, first those of 'first.weight', 'first.bias', 'second.weight', "
            "'second.bias' (seen from update 3 on)");
}

TEST_P(OverflowDiagnoses, AdviceFollowsWhatWasFound) {
  HALFSTEP_KNOWN_AT_ONCE();
  GradScaler scaler(options().init_scale(1).at_min_scale(AtMinScale::fall_back));
  scaler.name_parameters(net.named_parameters());
  torch::optim::SGD optimizer(net.parameters(), 0.01);
  {
    const torch::NoGradGuard no_grad;
    net.third->bias.fill_(kNan);
  }
  net.broken = true;  // the loss is NaN too
  iterate(scaler, optimizer);
  ASSERT_TRUE(scaler.diagnosis().has_value());
  EXPECT_THAT(scaler.diagnosis()->what(), ::testing::Not(::testing::HasSubstr("third")));
  {
    const torch::NoGradGuard no_grad;
    net.second->weight.fill_(kNan);
  }
  iterate(scaler, optimizer);
  EXPECT_THAT(scaler.diagnosis()->what(),
              ::testing::HasSubstr("the parameters 'second.weight' are not finite themselves"));
  EXPECT_THAT(scaler.diagnosis()->advice(), ::testing::HasSubstr("go back to a checkpoint"));

  // A loss that is NaN hits every gradient.
  Net healthy;
  healthy.to(device());
  torch::optim::SGD other(healthy.parameters(), 0.01);
  GradScaler fresh(options().init_scale(1).at_min_scale(AtMinScale::fall_back));
  fresh.scale(healthy.forward(torch::ones({2, 4}, device())) * kNan).backward();
  fresh.step(other);
  fresh.update();
  ASSERT_TRUE(fresh.diagnosis().has_value());
  EXPECT_THAT(fresh.diagnosis()->advice(), ::testing::HasSubstr("every gradient is hit"));
  EXPECT_THAT(fresh.diagnosis()->what(), ::testing::HasSubstr("and 1 more"));

  // Gradients zeroed before the update leave nothing to look at.
  other.zero_grad();
  fresh.scale(healthy.forward(torch::ones({2, 4}, device())) * kNan).backward();
  fresh.step(other);
  other.zero_grad();
  fresh.update();
  EXPECT_TRUE(fresh.diagnosis()->non_finite.empty());
  EXPECT_THAT(fresh.diagnosis()->advice(), ::testing::HasSubstr("zero them after update() only"));
}

}  // namespace halfstep::testing
