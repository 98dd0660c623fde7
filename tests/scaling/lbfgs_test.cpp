// LibTorch's optimizers beside Adam and SGD: LBFGS, which evaluates the loss by itself, and
// RMSprop.
#include "halfstep/core/error.h"
#include "halfstep/scaling/grad_scaler.h"

#include <functional>
#include <limits>

#include <torch/optim/lbfgs.h>
#include <torch/optim/rmsprop.h>
#include <torch/types.h>

#include "tests/support/devices.h"
#include "tests/support/errors.h"
#include "tests/support/tolerance.h"

namespace halfstep::testing {

using torch::optim::LBFGS;
using torch::optim::LBFGSOptions;

class ScaledLbfgs : public DeviceTest {
 protected:
  // Rosenbrock's valley: neither solved in one step nor without history.
  at::Tensor start() const {
    return torch::tensor({-1.2F, 1.0F, 0.5F}).to(device()).requires_grad_();
  }
  static at::Tensor loss_of(const at::Tensor& x) {
    const auto a = x.slice(0, 0, 2), b = x.slice(0, 1, 3);
    return (100 * (b - a * a).square() + (1 - a).square()).sum();
  }
  // `at_evaluation` is called after each backward with the number of the evaluation.
  StepResult step(GradScaler& scaler, LBFGS& lbfgs, const at::Tensor& x,
                  const std::function<void(int)>& at_evaluation = nullptr) {
    int evaluation = 0;
    return scaler.step(lbfgs, [&, evaluation]() mutable {
      lbfgs.zero_grad();
      const auto loss = loss_of(x);
      scaler.scale(loss).backward();
      if (at_evaluation) at_evaluation(evaluation++);
      return loss.detach();
    });
  }
  static void plain_step(LBFGS& lbfgs, const at::Tensor& x) {
    lbfgs.step([&] {
      lbfgs.zero_grad();
      const auto loss = loss_of(x);
      loss.backward();
      return loss.detach();
    });
  }
  GradScalerOptions options() const { return GradScalerOptions(GetParam()).init_scale(1024); }
};
HALFSTEP_ON_EACH_DEVICE(ScaledLbfgs);

TEST_P(ScaledLbfgs, EqualsTheStepWithoutScale) {
  for (const bool line_search : {false, true}) {
    LBFGSOptions how(line_search ? 1 : 1e-3);
    how.max_iter(5);
    if (line_search) how.line_search_fn("strong_wolfe");
    const auto scaled = start(), plain = start();
    LBFGS scaled_lbfgs({scaled}, how), plain_lbfgs({plain}, how);
    GradScaler scaler(options().growth_interval(2));
    for (int i = 0; i < 6; ++i) {
      EXPECT_TRUE(step(scaler, scaled_lbfgs, scaled).stepped());
      scaler.update();
      plain_step(plain_lbfgs, plain);
      expect_same_bits(scaled, plain);  // scales are powers of two
    }
    EXPECT_EQ(scaler.get_scale(), 8192);
    EXPECT_LT(loss_of(plain).item<float>(), loss_of(start()).item<float>());
  }
}

TEST_P(ScaledLbfgs, AnOverflowAtAnyEvaluationUndoesTheWholeStep) {
  for (int at = 0; at < 4; ++at) {
    SCOPED_TRACE(at);
    const auto how = LBFGSOptions(1).max_iter(4).line_search_fn("strong_wolfe");
    const auto scaled = start(), plain = start();
    LBFGS scaled_lbfgs({scaled}, how), plain_lbfgs({plain}, how);
    GradScaler scaler(options());
    for (int i = 0; i < 4; ++i) {
      if (i == 1 || i == 2) {  // with and without a state to go back to
        const auto before = scaled.detach().clone();
        int evaluations = 0;
        const auto result = step(scaler, scaled_lbfgs, scaled, [&](int evaluation) {
          ++evaluations;
          if (evaluation == at) scaled.mutable_grad()[1] = std::numeric_limits<float>::infinity();
        });
        EXPECT_EQ(evaluations, at + 1) << "the overflow did not happen, or did not end the step";
        EXPECT_FALSE(result.stepped());
        EXPECT_TRUE(result.is_known());
        EXPECT_FALSE(result.loss().defined());
        EXPECT_NE(result.found_inf().item<float>(), 0);
        expect_same_bits(scaled, before);
        scaler.update();
      }
      EXPECT_TRUE(step(scaler, scaled_lbfgs, scaled).stepped());
      scaler.update();
      plain_step(plain_lbfgs, plain);
      expect_same_bits(scaled, plain);
    }
    EXPECT_EQ(scaler.get_scale(), 256) << "each skipped step backs off once";
  }
}

TEST_P(ScaledLbfgs, AnOverflowInTheVeryFirstStep) {
  const auto x = start();
  LBFGS lbfgs({x}, LBFGSOptions(1));
  GradScaler scaler(options().init_scale(3e38));
  const auto result = step(scaler, lbfgs, x);
  EXPECT_FALSE(result.stepped());
  expect_same_bits(x, start());
  EXPECT_TRUE(lbfgs.state().empty());
  scaler.update();
  EXPECT_EQ(scaler.get_scale(), static_cast<float>(3e38) / 2);
}

TEST_P(ScaledLbfgs, AClosureThatThrowsLeavesEverythingAsItWas) {
  const auto x = start();
  LBFGS lbfgs({x}, LBFGSOptions(1).max_iter(4));
  GradScaler scaler(options());
  step(scaler, lbfgs, x);
  scaler.update();
  const auto before = x.detach().clone();
  EXPECT_ERROR(step(scaler, lbfgs, x,
                    [](int evaluation) {
                      if (evaluation == 2) throw std::runtime_error("no luck");
                    }),
               std::runtime_error, "no luck");
  expect_same_bits(x, before);
  EXPECT_TRUE(step(scaler, lbfgs, x).stepped());
  scaler.update();
}

TEST_P(ScaledLbfgs, RulesOfTheStateMachine) {
  const auto x = start();
  LBFGS lbfgs({x}, LBFGSOptions(1).max_iter(2));
  GradScaler scaler(options());
  EXPECT_ERROR(scaler.step(lbfgs, [&] { return loss_of(x); }), UsageError, "[GradScaler::step]",
               "scale() must come first");
  scaler.scale(loss_of(x)).backward();
  scaler.unscale_(lbfgs);
  EXPECT_ERROR(step(scaler, lbfgs, x), UsageError, "unscale_() must not be called for LBFGS");
  scaler.update();
  step(scaler, lbfgs, x);
  EXPECT_ERROR(step(scaler, lbfgs, x), UsageError, "step() must come once");
  EXPECT_ERROR(scaler.step(lbfgs), UsageError, "step() must come once");
}

class ScaledRmsprop : public DeviceTest {};
HALFSTEP_ON_EACH_DEVICE(ScaledRmsprop);

TEST_P(ScaledRmsprop, EqualsTheStepWithoutScaleAndSkipsOverflows) {
  using torch::optim::RMSprop;
  const auto how = torch::optim::RMSpropOptions(0.1).momentum(0.9).centered(true);
  torch::manual_seed(0);
  const auto scaled = torch::randn({20}, torch::device(device())).requires_grad_();
  const auto plain = scaled.detach().clone().requires_grad_();
  RMSprop scaled_rmsprop({scaled}, how), plain_rmsprop({plain}, how);
  GradScaler scaler(GradScalerOptions(GetParam()).init_scale(64).growth_interval(3));
  int skipped = 0;
  for (int i = 0; i < 12; ++i) {
    const bool overflow = i % 4 == 1;
    scaled_rmsprop.zero_grad();
    scaler.scale(scaled.square().sum()).backward();
    if (overflow) scaled.mutable_grad()[7] = std::numeric_limits<float>::quiet_NaN();
    skipped += scaler.step(scaled_rmsprop).stepped() ? 0 : 1;
    scaler.update();
    if (overflow) continue;
    plain_rmsprop.zero_grad();
    plain.square().sum().backward();
    plain_rmsprop.step();
    expect_same_bits(scaled, plain);
  }
  EXPECT_EQ(skipped, 3);
}

}  // namespace halfstep::testing
