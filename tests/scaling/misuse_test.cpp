// Every wrong call says what was done, why it is wrong and what to do; and changes nothing.
#include "halfstep/core/error.h"
#include "halfstep/scaling/grad_scaler.h"

#include <limits>

#include <torch/optim.h>
#include <torch/types.h>

#include "tests/support/devices.h"
#include "tests/support/errors.h"

namespace halfstep::testing {

class ScalerMisuse : public DeviceTest {
 protected:
  void SetUp() override {
    DeviceTest::SetUp();
    if (IsSkipped()) return;
    parameter_ = torch::ones({2}, torch::device(device()).requires_grad(true));
    optimizer_.emplace(std::vector<at::Tensor>{parameter_}, torch::optim::SGDOptions(0.5));
    scaler_.emplace(GradScalerOptions(GetParam()).init_scale(8));
  }
  void backward() { scaler_->scale((parameter_ * 2).sum()).backward(); }
  void expect_value(float value) const {
    EXPECT_TRUE(parameter_.eq(value).all().item<bool>()) << parameter_;
  }
  void expect_gradient(float value) const {
    EXPECT_TRUE(parameter_.grad().eq(value).all().item<bool>()) << parameter_.grad();
  }

  at::Tensor parameter_;
  std::optional<torch::optim::SGD> optimizer_;
  std::optional<GradScaler> scaler_;
};
HALFSTEP_ON_EACH_DEVICE(ScalerMisuse);

TEST_P(ScalerMisuse, BeforeScale) {
  EXPECT_ERROR(scaler_->unscale_(*optimizer_), UsageError, "[GradScaler::unscale_]",
               "scale() must come first", "call scaler.scale(loss).backward()");
  EXPECT_ERROR(scaler_->step(*optimizer_), UsageError, "[GradScaler::step]",
               "scale() must come first");
  EXPECT_ERROR(scaler_->update(), UsageError, "[GradScaler::update]", "scale() must come first");
  EXPECT_ERROR(scaler_->update(2.0), UsageError, "[GradScaler::update]", "scale() must come first");
  EXPECT_ERROR(scaler_->update(parameter_.detach()), UsageError, "[GradScaler::update]",
               "scale() must come first");
}

TEST_P(ScalerMisuse, UnscaleTwice) {
  backward();
  scaler_->unscale_(*optimizer_);
  EXPECT_ERROR(scaler_->unscale_(*optimizer_), UsageError, "[GradScaler::unscale_]",
               "once per optimizer", "divide its gradients twice", "accumulate first");
  expect_gradient(2);
  EXPECT_TRUE(scaler_->step(*optimizer_).stepped());
  expect_value(0);
}

TEST_P(ScalerMisuse, UnscaleAfterStep) {
  backward();
  scaler_->step(*optimizer_);
  EXPECT_ERROR(scaler_->unscale_(*optimizer_), UsageError, "[GradScaler::unscale_]",
               "must come before step()", "call update() first");
  expect_gradient(2);
}

TEST_P(ScalerMisuse, StepTwice) {
  backward();
  scaler_->step(*optimizer_);
  EXPECT_ERROR(scaler_->step(*optimizer_), UsageError, "[GradScaler::step]",
               "once per optimizer and iteration", "call update()");
  expect_value(0);
  scaler_->update();
  backward();
  EXPECT_TRUE(scaler_->step(*optimizer_).stepped());
}

TEST_P(ScalerMisuse, UpdateWithoutStep) {
  backward();
  EXPECT_ERROR(scaler_->update(), UsageError, "[GradScaler::update]",
               "must follow step() or unscale_()", "call scaler.step(optimizer)");
  EXPECT_EQ(scaler_->growth_tracker(), 0);
  scaler_->step(*optimizer_);
  scaler_->update();
  EXPECT_ERROR(scaler_->update(), UsageError, "must follow step()");
}

TEST_P(ScalerMisuse, StepWithoutGradients) {
  scaler_->scale(torch::ones({}, torch::device(device())));
  EXPECT_ERROR(scaler_->step(*optimizer_), UsageError, "[GradScaler::step]",
               "at least one parameter of the optimizer must have a gradient", "call backward()");
  // In Python the optimizer now counts as unscaled and no way leads on; here the call left nothing.
  backward();
  EXPECT_TRUE(scaler_->step(*optimizer_).stepped());
  scaler_->update();
}

TEST_P(ScalerMisuse, UnscaleWithoutGradients) {
  scaler_->scale(torch::ones({}, torch::device(device())));
  scaler_->unscale_(*optimizer_);
  EXPECT_ERROR(scaler_->step(*optimizer_), UsageError, "[GradScaler::step]", "call backward()");
  backward();
  scaler_->unscale_(*optimizer_);
  expect_gradient(2);
  EXPECT_TRUE(scaler_->step(*optimizer_).stepped());
  expect_value(0);
  scaler_->update();
}

TEST_P(ScalerMisuse, Closures) {
  backward();
  EXPECT_ERROR(scaler_->step(*optimizer_, [&] { return (parameter_ * 2).sum(); }), UsageError,
               "[GradScaler::step]", "no closure", "enabled(false)");
  torch::optim::LBFGS lbfgs(std::vector<at::Tensor>{parameter_});
  EXPECT_ERROR(scaler_->step(lbfgs), UsageError, "LBFGS must have a closure", "but got none",
               "scaler.step(lbfgs, closure)");
  expect_gradient(16);
  EXPECT_TRUE(scaler_->step(*optimizer_).stepped());
}

TEST_P(ScalerMisuse, Float16Parameters) {
  auto half = torch::ones({2}, torch::device(device()).dtype(torch::kHalf).requires_grad(true));
  torch::optim::SGD optimizer({half}, torch::optim::SGDOptions(0.5));
  scaler_->scale(half.sum()).backward();
  EXPECT_ERROR(scaler_->unscale_(optimizer), UsageError, "[GradScaler::unscale_]",
               "parameter 0 of group 0 has a float16 gradient", "Autocast");
  EXPECT_ERROR(scaler_->step(optimizer), UsageError, "[GradScaler::step]", "float16 gradient");
}

TEST_P(ScalerMisuse, NewScales) {
  backward();
  scaler_->step(*optimizer_);
  const auto options = torch::device(device());
  for (const double bad : {0.0, -1.0, 1e39, 1e-60, std::numeric_limits<double>::quiet_NaN()})
    EXPECT_ERROR(scaler_->update(bad), UsageError, "[GradScaler::update]",
                 "new_scale must be above 0 and finite", "but got");
  EXPECT_ERROR(scaler_->update(at::Tensor()), UsageError, "undefined");
  EXPECT_ERROR(scaler_->update(torch::ones({2}, options)), UsageError, "one element, but got 2",
               "pass a number");
  EXPECT_ERROR(scaler_->update(torch::ones({1}, options.requires_grad(true))), UsageError,
               "must not require a gradient", "detached");
  EXPECT_ERROR(scaler_->update(torch::ones({1}, torch::device(c10::kMeta))), UsageError,
               "must lie on device type", "meta");
  EXPECT_EQ(scaler_->get_scale(), 8);
}

TEST_P(ScalerMisuse, UndefinedOutput) {
  EXPECT_ERROR(scaler_->scale(at::Tensor()), UsageError, "[GradScaler::scale]", "undefined");
  EXPECT_ERROR(scaler_->scale(std::vector<at::Tensor>{at::Tensor()}), UsageError, "undefined");
}

namespace {
struct Failing : torch::optim::SGD {
  using SGD::SGD;
  at::Tensor step(LossClosure closure) override {
    if (fail) throw std::runtime_error("no luck");
    return SGD::step(std::move(closure));
  }
  bool fail = true;
};
}  // namespace

TEST_P(ScalerMisuse, StepThatThrowsMayBeRepeated) {
  Failing optimizer({parameter_}, torch::optim::SGDOptions(0.5));
  backward();
  EXPECT_ERROR(scaler_->step(optimizer), std::runtime_error, "no luck");
  expect_gradient(2);
  optimizer.fail = false;
  EXPECT_TRUE(scaler_->step(optimizer).stepped());
  expect_gradient(2);
  expect_value(0);
}

}  // namespace halfstep::testing
