// Bugs of loss scalers that are in public use with LibTorch: none of them may come back here.
#include "halfstep/scaling/device_copies.h"
#include "halfstep/scaling/grad_scaler.h"

#include <limits>

#include <torch/optim.h>
#include <torch/serialize.h>
#include <torch/types.h>

#include "tests/support/devices.h"

namespace halfstep::testing {

class PublicPorts : public DeviceTest {
 protected:
  at::Tensor parameter(double value) const {
    return torch::full({2}, value, torch::device(device()).requires_grad(true));
  }
  GradScalerOptions options() const { return GradScalerOptions(GetParam()); }
};
HALFSTEP_ON_EACH_DEVICE(PublicPorts);

// One port unscales inside the loop over groups: group k of n is divided n-k+1 times.
TEST_P(PublicPorts, EachGroupIsUnscaledOnce) {
  std::vector<torch::optim::OptimizerParamGroup> groups;
  std::vector<at::Tensor> parameters;
  for (int g = 0; g < 3; ++g) {
    parameters.push_back(parameter(1));
    groups.emplace_back(std::vector<at::Tensor>{parameters.back()});
  }
  torch::optim::SGD optimizer(groups, torch::optim::SGDOptions(1.0));
  GradScaler scaler(options().init_scale(4));
  scaler.scale((parameters[0] + parameters[1] + parameters[2]).mul(2).sum()).backward();
  for (const auto& p : parameters) ASSERT_TRUE(p.grad().eq(8).all().item<bool>());
  scaler.unscale_(optimizer);
  for (const auto& p : parameters) EXPECT_TRUE(p.grad().eq(2).all().item<bool>()) << p.grad();
}

// One keys found_inf by device type, so that cuda:0 and cuda:1 share a flag.
TEST(PublicPortsDevices, TwoDevicesOfOneTypeHaveTwoCopies) {
  const c10::Device first(c10::kCUDA, 0), second(c10::kCUDA, 1);
  FoundInfs flags;
  flags[first] = torch::zeros({});
  flags[second] = torch::ones({});
  flags[c10::Device(c10::kCUDA, 0)] = torch::zeros({});
  EXPECT_EQ(flags.size(), 2U);

  detail::DeviceCopies copies(torch::ones({}));
  EXPECT_TRUE(copies.made().empty());
  const auto here = copies.get(c10::kCPU);
  const auto there = copies.get(c10::Device(c10::kMeta));
  EXPECT_TRUE(there.is_meta());
  EXPECT_TRUE(copies.get(c10::Device(c10::kMeta)).is_same(there)) << "copied once";
  EXPECT_TRUE(copies.get(c10::kCPU).is_same(here));
  EXPECT_EQ(copies.made().size(), 2U);
}

// Two refuse the CPU, though LibTorch has the kernels.
TEST_P(PublicPorts, EveryDeviceWithKernelsIsTaken) {
  EXPECT_TRUE(GradScaler(options()).is_enabled());
}

// One forgets a `return`, so the saved growth count is always 0.
TEST_P(PublicPorts, GrowthCountIsSaved) {
  auto weight = parameter(1);
  torch::optim::SGD optimizer({weight}, torch::optim::SGDOptions(1.0));
  GradScaler scaler(options().init_scale(4));
  for (int i = 0; i < 3; ++i) {
    scaler.scale(weight.sum()).backward();
    scaler.step(optimizer);
    scaler.update();
  }
  ASSERT_TRUE(scaler.state());
  EXPECT_EQ(scaler.state()->growth_tracker, 3);
}

// One computes whether there is an inf or NaN, drops the answer and says no.
TEST_P(PublicPorts, OverflowIsReported) {
  for (const float bad :
       {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
        std::numeric_limits<float>::quiet_NaN()}) {
    auto weight = parameter(1);
    torch::optim::SGD optimizer({weight}, torch::optim::SGDOptions(1.0));
    GradScaler scaler(options().init_scale(4));
    scaler.scale(weight.sum()).backward();
    weight.mutable_grad()[1] = bad;
    EXPECT_FALSE(scaler.step(optimizer).stepped());
  }
}

// One gives unused parameters a zero gradient, so weight decay and momentum move them.
TEST_P(PublicPorts, UnusedParametersDoNotMove) {
  auto used = parameter(1), unused = parameter(1);
  torch::optim::SGD optimizer({used, unused},
                              torch::optim::SGDOptions(0.1).weight_decay(0.5).momentum(0.9));
  GradScaler scaler(options().init_scale(4));
  for (int i = 0; i < 2; ++i) {
    scaler.scale(used.sum()).backward();
    scaler.step(optimizer);
    scaler.update();
  }
  EXPECT_FALSE(unused.grad().defined());
  EXPECT_TRUE(unused.eq(1).all().item<bool>());
  EXPECT_FALSE(used.eq(1).any().item<bool>());
}

// One compares the scale with the interval where the count belongs, and never grows as told.
TEST_P(PublicPorts, TheScaleDoublesNeverAdds) {
  auto weight = parameter(1);
  torch::optim::SGD optimizer({weight}, torch::optim::SGDOptions(0.01));
  GradScaler scaler(options().init_scale(3).growth_interval(4));  // scale < interval < scale * 2
  std::vector<double> scales;
  for (int i = 0; i < 8; ++i) {
    scaler.scale(weight.sum()).backward();
    scaler.step(optimizer);
    scaler.update();
    scales.push_back(scaler.get_scale());
  }
  EXPECT_EQ(scales, (std::vector<double>{3, 3, 3, 6, 6, 6, 6, 12}));
}

// Optimizers are known by address: a new one at an old address must start fresh after update().
TEST_P(PublicPorts, ANewOptimizerAtAnOldAddressStartsFresh) {
  auto weight = parameter(1);
  GradScaler scaler(options().init_scale(4));
  std::optional<torch::optim::SGD> optimizer;
  for (int i = 0; i < 2; ++i) {
    optimizer.emplace(std::vector<at::Tensor>{weight}, torch::optim::SGDOptions(1.0));
    optimizer->zero_grad();
    scaler.scale(weight.sum()).backward();
    scaler.unscale_(*optimizer);
    EXPECT_TRUE(weight.grad().eq(1).all().item<bool>());
    EXPECT_TRUE(scaler.step(*optimizer).stepped());
    scaler.update();
  }
}

}  // namespace halfstep::testing
