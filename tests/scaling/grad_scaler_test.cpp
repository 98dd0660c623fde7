// scale(), options, setters, disabled mode and what stands around the state machine.
#include "halfstep/scaling/grad_scaler.h"

#include "halfstep/autocast/autocast.h"
#include "halfstep/core/device.h"
#include "halfstep/core/error.h"

#include <limits>

#include <c10/core/InferenceMode.h>
#include <torch/optim.h>
#include <torch/types.h>

#include "tests/support/devices.h"
#include "tests/support/errors.h"
#include "tests/support/tolerance.h"

namespace halfstep::testing {

namespace {

class Warnings : public c10::WarningHandler {
 public:
  void process(const c10::Warning& warning) override { messages.push_back(warning.msg()); }
  std::vector<std::string> messages;
};

}  // namespace

TEST(GradScalerOptions, HavePythonsDefaults) {
  const GradScalerOptions options;
  EXPECT_EQ(options.device_type(), cuda_works() ? c10::kCUDA : c10::kCPU);
  EXPECT_EQ(options.init_scale(), 65536);
  EXPECT_EQ(options.growth_factor(), 2);
  EXPECT_EQ(options.backoff_factor(), 0.5);
  EXPECT_EQ(options.growth_interval(), 2000);
  EXPECT_TRUE(options.enabled());
}

TEST(GradScalerOptions, AreCheckedWholeAlsoWhereDisabled) {
  const double inf = std::numeric_limits<double>::infinity();
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const bool enabled : {true, false}) {
    const auto options = GradScalerOptions(c10::kCPU).enabled(enabled);
    const auto make = [](const GradScalerOptions& o) { const GradScaler scaler(o); };
    for (const double bad : {1.0, 0.5, inf, nan})
      EXPECT_ERROR(make(GradScalerOptions(options).growth_factor(bad)), UsageError,
                   "[GradScalerOptions]", "growth_factor must be above 1 and finite, but got");
    for (const double bad : {1.0, 0.0, -0.5, 2.0, nan})
      EXPECT_ERROR(make(GradScalerOptions(options).backoff_factor(bad)), UsageError,
                   "backoff_factor must be above 0 and below 1, but got");
    for (const double bad : {0.0, -2.0, inf, nan, 1e39, 1e-60})
      EXPECT_ERROR(make(GradScalerOptions(options).init_scale(bad)), UsageError,
                   "init_scale must be above 0 and finite in float32, but got");
    for (const int64_t bad : {int64_t{0}, int64_t{-1}, int64_t{1} << 31})
      EXPECT_ERROR(make(GradScalerOptions(options).growth_interval(bad)), UsageError,
                   "growth_interval must be from 1 to 2147483647");
    EXPECT_ERROR(make(GradScalerOptions(c10::kMeta)), UsageError, "kCPU or kCUDA, but got meta",
                 "use the one the model runs on");
  }
}

TEST(GradScalerOptions, CudaThatDoesNotWorkWarnsAndDisables) {
  Warnings warnings;
  const c10::WarningUtils::WarningHandlerGuard guard(&warnings);
  const GradScaler scaler((GradScalerOptions(c10::kCUDA)));
  EXPECT_EQ(scaler.is_enabled(), cuda_works());
  ASSERT_EQ(warnings.messages.size(), cuda_works() ? 0U : 1U);
  if (cuda_works()) return;
  EXPECT_THAT(warnings.messages[0], ::testing::HasSubstr("disabled"));
  EXPECT_THAT(warnings.messages[0], ::testing::HasSubstr("GradScalerOptions(torch::kCPU)"));
  const GradScaler quiet(GradScalerOptions(c10::kCUDA).enabled(false));
  EXPECT_EQ(warnings.messages.size(), 1U);
}

class ScalerBasics : public DeviceTest {
 protected:
  GradScalerOptions options() const { return GradScalerOptions(GetParam()); }
  at::Tensor full(double value) const { return torch::full({1}, value, torch::device(device())); }
};
HALFSTEP_ON_EACH_DEVICE(ScalerBasics);

TEST_P(ScalerBasics, ScalesNestsAndKeepsTheirShape) {
  GradScaler scaler(options().init_scale(2));
  using Pair = std::pair<at::Tensor, at::Tensor>;
  const std::tuple<at::Tensor, Pair, std::vector<std::array<at::Tensor, 2>>> outputs{
      full(1), {full(2), full(3)}, {{full(4), full(5)}, {full(6), full(7)}}};
  const auto scaled = scaler.scale(outputs);
  static_assert(std::is_same_v<decltype(scaled), const std::decay_t<decltype(outputs)>>);
  EXPECT_EQ(std::get<0>(scaled).item<float>(), 2);
  EXPECT_EQ(std::get<1>(scaled).first.item<float>(), 4);
  EXPECT_EQ(std::get<1>(scaled).second.item<float>(), 6);
  ASSERT_EQ(std::get<2>(scaled).size(), 2U);
  EXPECT_EQ(std::get<2>(scaled)[0][1].item<float>(), 10);
  EXPECT_EQ(std::get<2>(scaled)[1][1].item<float>(), 14);

  const std::vector<at::Tensor> list = scaler.scale({full(1), full(2)});
  EXPECT_EQ(list[1].item<float>(), 4);
  EXPECT_TRUE(scaler.scale(std::vector<at::Tensor>{}).empty());
  static_assert(!detail::TensorNest<std::vector<double>> && !detail::TensorNest<int>);
  static_assert(detail::TensorNest<std::tuple<>>);
}

TEST_P(ScalerBasics, ScaleIsRecordedAndKeepsTheDtype) {
  GradScaler scaler(options().init_scale(1024));
  const auto leaf = full(3).requires_grad_();
  scaler.scale(leaf * 2).backward();
  EXPECT_EQ(leaf.grad().item<float>(), 2048);
  for (const auto dtype : {torch::kHalf, torch::kBFloat16, torch::kFloat, torch::kDouble})
    EXPECT_EQ(scaler.scale(full(1).to(dtype)).scalar_type(), dtype);
  EXPECT_TRUE(scaler.scale(full(100).to(torch::kHalf)).isinf().item<bool>())
      << "float16 outputs overflow past 65504, as documented";
}

TEST_P(ScalerBasics, DisabledPassesEverythingThrough) {
  GradScaler scaler(options().enabled(false));
  auto parameter = full(1).requires_grad_();
  torch::optim::SGD optimizer({parameter}, torch::optim::SGDOptions(0.5));
  const auto loss = (parameter * 2).sum();
  EXPECT_TRUE(scaler.scale(loss).is_same(loss));
  EXPECT_TRUE(scaler.scale(std::vector<at::Tensor>{loss})[0].is_same(loss));
  loss.backward();
  parameter.mutable_grad().fill_(std::numeric_limits<float>::infinity());
  scaler.unscale_(optimizer);
  scaler.unscale_(optimizer);
  const auto result = scaler.step(optimizer);
  EXPECT_TRUE(result.stepped() && result.is_known());
  EXPECT_FALSE(result.found_inf().defined());
  EXPECT_FALSE(parameter.isfinite().item<bool>()) << "a disabled scaler checks nothing";
  scaler.update();
  scaler.update(4.0);
  scaler.update(full(4));
  EXPECT_EQ(scaler.get_scale(), 1);
  EXPECT_EQ(scaler.get_growth_factor(), 2);
  EXPECT_EQ(scaler.growth_tracker(), 0);
}

TEST_P(ScalerBasics, DisabledRunsClosuresAndLBFGS) {
  GradScaler scaler(options().enabled(false));
  auto parameter = full(3).requires_grad_();
  torch::optim::LBFGS optimizer({parameter}, torch::optim::LBFGSOptions(1));
  const auto result = scaler.step(optimizer, [&] {
    optimizer.zero_grad();
    const auto loss = (parameter * parameter).sum();
    loss.backward();
    return loss;
  });
  EXPECT_EQ(result.loss().item<float>(), 9);
  EXPECT_NE(parameter.item<float>(), 3);
}

TEST_P(ScalerBasics, UpdateTakesNumbersAndTensors) {
  GradScaler scaler(options().init_scale(8).growth_interval(5));
  auto parameter = full(1).requires_grad_();
  torch::optim::SGD optimizer({parameter}, torch::optim::SGDOptions(0.5));
  scaler.scale(parameter.sum()).backward();
  scaler.step(optimizer);
  scaler.update();
  EXPECT_EQ(scaler.growth_tracker(), 1);
  scaler.update(4.5);
  EXPECT_EQ(scaler.get_scale(), 4.5);
  scaler.update(16);  // an int: AttributeError in Python
  EXPECT_EQ(scaler.get_scale(), 16);
  const auto tensor = full(3);
  scaler.update(tensor);
  tensor.fill_(5);
  EXPECT_EQ(scaler.get_scale(), 3) << "later changes of the tensor must not show";
  scaler.update(torch::full({1, 1}, 7, torch::device(device()).dtype(torch::kLong)));
  EXPECT_EQ(scaler.get_scale(), 7);
  EXPECT_EQ(scaler.growth_tracker(), 1) << "a new scale leaves the count";
}

TEST_P(ScalerBasics, ANewScaleForgetsTheOptimizers) {
  GradScaler scaler(options().init_scale(8));
  auto parameter = full(1).requires_grad_();
  torch::optim::SGD optimizer({parameter}, torch::optim::SGDOptions(0.5));
  for (int i = 0; i < 3; ++i) {
    optimizer.zero_grad();
    scaler.scale(parameter.sum()).backward();
    EXPECT_TRUE(scaler.step(optimizer).stepped());
    i == 0 ? scaler.update(4.0) : scaler.update(full(2));
  }
  EXPECT_EQ(parameter.item<float>(), 1 - 3 * 0.5F);
}

TEST_P(ScalerBasics, SettersHaveTheRangesOfTheOptions) {
  GradScaler scaler(options().init_scale(8));
  EXPECT_ERROR(scaler.set_growth_factor(1), UsageError, "[GradScaler::set_growth_factor]");
  EXPECT_ERROR(scaler.set_backoff_factor(1), UsageError, "[GradScaler::set_backoff_factor]");
  EXPECT_ERROR(scaler.set_growth_interval(0), UsageError, "[GradScaler::set_growth_interval]");
  scaler.set_growth_factor(4);
  scaler.set_backoff_factor(0.25);
  scaler.set_growth_interval(1);
  EXPECT_EQ(scaler.state(), (GradScalerState{8, 4, 0.25, 1, 0}));
  auto parameter = full(1).requires_grad_();
  torch::optim::SGD optimizer({parameter}, torch::optim::SGDOptions(0.5));
  scaler.scale(parameter.sum()).backward();
  scaler.step(optimizer);
  scaler.update();
  EXPECT_EQ(scaler.get_scale(), 32);
}

TEST_P(ScalerBasics, StartsUnderInferenceModeToo) {
  GradScaler scaler(options().init_scale(8));
  {
    const c10::InferenceMode inference;
    EXPECT_EQ(scaler.scale(full(1)).item<float>(), 8);
  }
  auto parameter = full(1).requires_grad_();
  torch::optim::SGD optimizer({parameter}, torch::optim::SGDOptions(0.5));
  scaler.scale(parameter.sum()).backward();
  scaler.step(optimizer);
  scaler.update();
  EXPECT_EQ(scaler.growth_tracker(), 1);
}

TEST_P(ScalerBasics, StepInsideARegionDoesNotLeaveStaleCasts) {
  // SGD writes through .data, which no version counter shows.
  auto weight = torch::ones({2, 2}, torch::device(device()).requires_grad(true));
  const auto input = torch::ones({2, 2}, torch::device(device()));
  torch::optim::SGD optimizer({weight}, torch::optim::SGDOptions(0.25));
  GradScaler scaler(options().init_scale(8));
  const Autocast autocast(GetParam());
  const auto before = torch::mm(input, weight);
  scaler.scale(before.to(torch::kFloat).sum()).backward();
  scaler.step(optimizer);
  const auto after = torch::mm(input, weight);
  ASSERT_EQ(before.scalar_type(), autocast.dtype()) << "nothing was cast";
  EXPECT_EQ(before[0][0].item<float>(), 2);
  EXPECT_EQ(after[0][0].item<float>(), 1);
}

TEST_P(ScalerBasics, MovesWithItsState) {
  GradScaler from(options().init_scale(8));
  auto parameter = full(1).requires_grad_();
  torch::optim::SGD optimizer({parameter}, torch::optim::SGDOptions(0.5));
  from.scale(parameter.sum()).backward();
  from.unscale_(optimizer);
  GradScaler to(std::move(from));
  EXPECT_TRUE(to.step(optimizer).stepped());
  to.update();
  EXPECT_EQ(to.growth_tracker(), 1);
}

}  // namespace halfstep::testing
