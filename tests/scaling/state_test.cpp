// Save and load; with Python's test_grad_scaling_state_dict and test_pickle_gradscaler.
#include "halfstep/core/error.h"
#include "halfstep/scaling/grad_scaler.h"
#include "halfstep/scaling/grad_scaler_state.h"

#include <limits>
#include <sstream>

#include <torch/optim/sgd.h>
#include <torch/serialize.h>
#include <torch/types.h>

#include "tests/support/devices.h"
#include "tests/support/errors.h"

namespace halfstep::testing {

class ScalerState : public DeviceTest {
 protected:
  GradScalerOptions options() const { return GradScalerOptions(GetParam()); }
  at::Tensor ones() const { return torch::ones({1}, torch::device(device())); }

  /// One iteration with or without an overflow.
  void iterate(GradScaler& scaler, bool overflow) const {
    auto parameter = torch::ones({2}, torch::device(device()).requires_grad(true));
    torch::optim::SGD optimizer({parameter}, torch::optim::SGDOptions(0.1));
    scaler.scale(parameter.sum()).backward();
    if (overflow) parameter.mutable_grad()[0] = std::numeric_limits<float>::infinity();
    ASSERT_EQ(scaler.step(optimizer).stepped(), !overflow);
    scaler.update();
  }
};
HALFSTEP_ON_EACH_DEVICE(ScalerState);

TEST_P(ScalerState, GradScalingStateDict) {
  for (const bool live : {false, true}) {
    GradScaler from(
        options().init_scale(3).growth_factor(4).backoff_factor(0.5).growth_interval(2));
    GradScaler to(options().init_scale(6).growth_factor(7).backoff_factor(0.8).growth_interval(9));
    to.load_state(GradScalerState{6, 7, 0.8, 9, 5});  // a count to be overwritten
    if (live) to.scale(ones());
    to.load_state(from.state());
    EXPECT_EQ(to.state(), (GradScalerState{3, 4, 0.5, 2, 0}));
    EXPECT_EQ(to.get_scale(), 3);
    EXPECT_EQ(to.get_growth_factor(), 4);
    EXPECT_EQ(to.get_backoff_factor(), 0.5);
    EXPECT_EQ(to.get_growth_interval(), 2);
    EXPECT_EQ(to.growth_tracker(), 0);
    EXPECT_EQ(to.scale(ones() * 4).item<float>(), 12);
  }
}

TEST_P(ScalerState, PickleGradscaler) {
  for (const bool live : {false, true}) {
    GradScaler from(
        options().init_scale(3).growth_factor(4).backoff_factor(0.5).growth_interval(2));
    if (live) iterate(from, false);
    std::stringstream file;
    torch::save(from, file);
    GradScaler to(options());
    torch::load(to, file);
    EXPECT_TRUE(to.is_enabled());
    EXPECT_EQ(to.state(), (GradScalerState{3, 4, 0.5, 2, live ? 1 : 0}));
    EXPECT_FALSE(to.get_scale_async().defined()) << "starts lazily, wherever the next loss lies";
    EXPECT_EQ(to.scale(ones() * 4).item<float>(), 12);
    EXPECT_EQ(to.growth_tracker(), live ? 1 : 0);
  }
}

TEST_P(ScalerState, ContinuesAsIfUnbroken) {
  // Saved after every step of a run with growth and overflows, also right after one.
  const std::vector<bool> overflows{false, false, true, false, false, false, false, true, false};
  GradScaler unbroken(
      options().init_scale(1000).growth_factor(1.7).backoff_factor(0.3).growth_interval(3));
  std::optional<GradScaler> broken(
      std::in_place,
      options().init_scale(1000).growth_factor(1.7).backoff_factor(0.3).growth_interval(3));
  bool saw_mid_growth = false;
  for (const bool overflow : overflows) {
    iterate(unbroken, overflow);
    iterate(*broken, overflow);
    std::stringstream file;
    torch::save(*broken, file);
    broken.emplace(options());
    torch::load(*broken, file);
    ASSERT_EQ(broken->state(), unbroken.state());
    saw_mid_growth |= unbroken.growth_tracker() > 0;
  }
  EXPECT_TRUE(saw_mid_growth);
}

TEST_P(ScalerState, EmptyStateIsAnError) {
  const GradScaler disabled(options().enabled(false));
  EXPECT_EQ(disabled.state(), std::nullopt);
  GradScaler scaler(options());
  EXPECT_ERROR(scaler.load_state(disabled.state()), UsageError, "[GradScaler::load_state]",
               "must not be empty", "disabled scaler");
  std::stringstream file;
  torch::save(disabled, file);
  EXPECT_ERROR(torch::load(scaler, file), UsageError, "must not be empty");
}

TEST_P(ScalerState, DisabledScalerLoadsNothing) {
  GradScaler disabled(options().enabled(false).growth_interval(5));
  disabled.load_state(GradScalerState{3, 4, 0.5, 2, 1});
  disabled.load_state(std::nullopt);
  EXPECT_EQ(disabled.get_growth_interval(), 5);
  EXPECT_EQ(disabled.get_scale(), 1);
}

TEST_P(ScalerState, ValuesOutOfRangeAreErrorsAndChangeNothing) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  GradScaler scaler(options());
  scaler.scale(ones());
  const auto before = scaler.state();
  EXPECT_ERROR(scaler.load_state(GradScalerState{0, 2, 0.5, 2000, 0}), UsageError,
               "scale must be above 0", "got 0");
  EXPECT_ERROR(scaler.load_state(GradScalerState{nan, 2, 0.5, 2000, 0}), UsageError,
               "scale must be above 0", "nan");
  EXPECT_ERROR(scaler.load_state(GradScalerState{1, 1, 0.5, 2000, 0}), UsageError,
               "growth_factor must be above 1");
  EXPECT_ERROR(scaler.load_state(GradScalerState{1, 2, 1.5, 2000, 0}), UsageError,
               "backoff_factor must be above 0 and below 1");
  EXPECT_ERROR(scaler.load_state(GradScalerState{1, 2, 0.5, 0, 0}), UsageError,
               "growth_interval must be from 1");
  EXPECT_ERROR(scaler.load_state(GradScalerState{1, 2, 0.5, 2000, -1}), UsageError,
               "growth_tracker must be 0 or more", "got -1", "start with a new scaler");
  EXPECT_EQ(scaler.state(), before);
}

TEST_P(ScalerState, DamagedArchivesAreErrors) {
  const auto load = [&](const std::function<void(torch::serialize::OutputArchive&)>& write) {
    torch::serialize::OutputArchive out;
    write(out);
    std::stringstream file;
    out.save_to(file);
    torch::serialize::InputArchive in;
    in.load_from(file);
    GradScaler scaler(options());
    scaler.load(in);
  };
  EXPECT_ERROR(load([](auto& out) { out.write("scale", c10::IValue(2.0)); }), EnvironmentError,
               "[GradScaler::load]",
               "lacks growth_factor, backoff_factor, growth_interval, "
               "_growth_tracker; load a file that GradScaler::save wrote");
  EXPECT_ERROR(load([](auto& out) {
                 for (const char* key : {"scale", "growth_factor", "backoff_factor",
                                         "growth_interval", "_growth_tracker"})
                   out.write(key, c10::IValue(2.0));
               }),
               EnvironmentError, "'growth_interval' must be an int, but got Double",
               "load a file that GradScaler::save wrote");
}

// Python compares the count with the interval for equality only: past it, the scale never grows.
TEST_P(ScalerState, CountPastANewIntervalGrowsAtOnce) {
  for (const bool by_setter : {true, false}) {
    GradScaler scaler(options().init_scale(8).growth_interval(10));
    for (int i = 0; i < 5; ++i) iterate(scaler, false);
    ASSERT_EQ(scaler.growth_tracker(), 5);
    if (by_setter)
      scaler.set_growth_interval(2);
    else
      scaler.load_state(GradScalerState{8, 2, 0.5, 2, 5});
    EXPECT_EQ(scaler.growth_tracker(), 1);
    iterate(scaler, false);
    EXPECT_EQ(scaler.get_scale(), 16);
    EXPECT_EQ(scaler.growth_tracker(), 0);
  }
  GradScaler lazy(options());
  lazy.load_state(GradScalerState{8, 2, 0.5, 10, 7});
  lazy.set_growth_interval(3);
  EXPECT_EQ(lazy.growth_tracker(), 2);
}

TEST_P(ScalerState, LoadingForgetsTheOptimizers) {
  auto parameter = torch::ones({2}, torch::device(device()).requires_grad(true));
  torch::optim::SGD optimizer({parameter}, torch::optim::SGDOptions(0.1));
  GradScaler scaler(options().init_scale(8));
  const auto start = scaler.state();
  scaler.scale(parameter.sum()).backward();
  scaler.step(optimizer);
  scaler.load_state(start);
  optimizer.zero_grad();
  scaler.scale(parameter.sum()).backward();
  EXPECT_TRUE(scaler.step(optimizer).stepped());
}

}  // namespace halfstep::testing
