// The scaler tests of Apex, DeepSpeed, jmp, Keras and TF-Keras with their own numbers;
// tests/fidelity.csv says which is which.
#include "halfstep/core/error.h"
#include "halfstep/scaling/dialects.h"
#include "halfstep/scaling/grad_scaler.h"

#include <cmath>
#include <sstream>

#include <torch/nn/utils/clip_grad.h>
#include <torch/optim/sgd.h>
#include <torch/serialize.h>
#include <torch/types.h>

#include "tests/support/errors.h"
#include "tests/support/special_values.h"
#include "tests/support/tolerance.h"

namespace halfstep::testing {

namespace {

/// Variables, SGD and a scaler, stepped with given gradients.
struct Loop {
  at::Tensor variable;
  torch::optim::SGD optimizer;
  GradScaler scaler;

  Loop(std::vector<float> start, double lr, GradScalerOptions options, double momentum = 0)
      : variable(torch::tensor(start).requires_grad_()),
        optimizer({variable}, torch::optim::SGDOptions(lr).momentum(momentum)),
        scaler(options.device_type(c10::kCPU)) {}

  /// `gradient` is the true one; it arrives scaled, as backward leaves it.
  bool step(const at::Tensor& gradient) {
    variable.mutable_grad() = scaler.scale(gradient);
    const bool stepped = scaler.step(optimizer).stepped();
    scaler.update();
    return stepped;
  }
  bool step(float gradient) { return step(torch::full_like(variable, gradient)); }
  void expect(std::vector<float> values) const {
    expect_same_bits(variable.detach(), torch::tensor(values));
  }
};

}  // namespace

TEST(ApexPorts, EachLossKeepsItsOwnScale) {
  std::vector<std::unique_ptr<Loop>> losses;
  for (int i = 0; i < 3; ++i)
    losses.push_back(std::make_unique<Loop>(std::vector<float>{1}, 0.1, dialects::apex()));
  for (int decreases = 0; decreases < 3; ++decreases)
    for (int i = 0; i < decreases; ++i)
      EXPECT_FALSE(losses[static_cast<std::size_t>(decreases)]->step(kInf));
  for (int decreases = 0; decreases < 3; ++decreases) {
    auto& scaler = losses[static_cast<std::size_t>(decreases)]->scaler;
    EXPECT_EQ(scaler.get_scale(), 65536 / std::pow(2, decreases));
    EXPECT_EQ(scaler.state()->scale, 65536 / std::pow(2, decreases));
    EXPECT_EQ(scaler.state()->growth_tracker, 0);
  }
}

TEST(ApexPorts, RestoredScalerGoesOn) {
  Loop original({1}, 0.1, dialects::apex().growth_interval(3));
  original.step(kInf);
  original.step(1);
  original.step(1);
  std::stringstream file;
  torch::save(original.scaler, file);
  Loop restored({1}, 0.1, dialects::apex().growth_interval(3));
  torch::load(restored.scaler, file);
  EXPECT_EQ(restored.scaler.state(), original.scaler.state());
  restored.step(1);
  EXPECT_EQ(restored.scaler.get_scale(), 65536);
}

class DeepspeedPorts : public ::testing::TestWithParam<const char*> {
 protected:
  GradScalerOptions options(int power) const {
    auto options = dialects::by_name(GetParam()).init_scale(std::pow(2, power));
    return options.growth_interval(2).min_scale(1).hysteresis(1).at_min_scale(
        AtMinScale::keep_going);
  }
};
INSTANTIATE_TEST_SUITE_P(Of, DeepspeedPorts,
                         ::testing::Values("deepspeed_fused", "deepspeed_unfused", "deepspeed"),
                         [](const auto& test) { return std::string(test.param); });

TEST_P(DeepspeedPorts, NoOverflow) {
  Loop loop({1}, 0.00015, options(8));
  double expected = 256;
  for (int i = 0; i < 10; ++i) {
    EXPECT_TRUE(loop.step(0.05f));
    EXPECT_EQ(loop.scaler.get_scale(), expected) << i;
    if ((i + 1) % 2 == 0) expected *= 2;
  }
}

TEST_P(DeepspeedPorts, AllOverflow) {
  Loop loop({1}, 0.00015, options(4));
  double expected = 16;
  for (const float gradient : {kInf, -kInf, kNan, kNan, kNan, kNan, kNan, kNan}) {
    EXPECT_FALSE(loop.step(gradient));
    expected = std::max(expected / 2, 1.0);
    EXPECT_EQ(loop.scaler.get_scale(), expected);
  }
  EXPECT_EQ(expected, 1);
  EXPECT_EQ(loop.scaler.overflows().updates, 8);
}

TEST_P(DeepspeedPorts, SomeOverflow) {
  Loop loop({1}, 0.00015, options(8));
  loop.step(kInf);
  loop.step(kNan);
  EXPECT_EQ(loop.scaler.get_scale(), 64);
  for (int i = 0; i < 3; ++i) loop.step(0.05f);  // the window and one more
  EXPECT_EQ(loop.scaler.get_scale(), 128);
  loop.step(kInf);
  EXPECT_EQ(loop.scaler.get_scale(), 64);
  EXPECT_EQ(loop.scaler.overflows().updates, 6);
}

TEST(DeepspeedOptionPorts, DynamicScaleRanges) {
  const auto with = [](auto&& change) {
    auto options = dialects::deepspeed().device_type(c10::kCPU);
    change(options);
    options.validate();
  };
  for (const int64_t value : {0, -1}) {
    EXPECT_ERROR(with([&](auto& o) { o.growth_interval(value); }), UsageError, "growth_interval");
    EXPECT_ERROR(with([&](auto& o) { o.hysteresis(value); }), UsageError, "hysteresis");
  }
  EXPECT_ERROR(with([](auto& o) { o.min_scale(-1); }), UsageError, "min_scale");
  EXPECT_NO_THROW(with([](auto& o) { o.growth_interval(1).hysteresis(1).min_scale(1); }));
  for (const double value : {0.0, -1.0, static_cast<double>(kInf), static_cast<double>(kNan)})
    EXPECT_ERROR(dialects::deepspeed_static(value).device_type(c10::kCPU).validate(), UsageError,
                 "init_scale must be above 0 and finite");
  for (const double value : {0.5, 1.0, 128.0})
    EXPECT_NO_THROW(dialects::deepspeed_static(value).device_type(c10::kCPU).validate());
}

TEST(JmpPorts, NoOpChangesNothing) {
  GradScaler scaler(dialects::jmp_no_op());
  const auto loss = torch::ones({});
  EXPECT_TRUE(scaler.scale(loss).is_same(loss));
  EXPECT_EQ(scaler.get_scale(), 1);
  auto parameter = torch::ones({1}, torch::requires_grad());
  parameter.mutable_grad() = torch::ones({1});
  torch::optim::SGD optimizer({parameter}, 0.1);
  scaler.unscale_(optimizer);
  EXPECT_EQ(parameter.grad().item<float>(), 1);
}

TEST(JmpPorts, ScalesAndUnscales) {
  for (const double scale : {2.0, 3.0, 4.0}) {
    for (const auto& options : {dialects::jmp_static(scale), dialects::jmp(scale)}) {
      Loop loop({0}, 1, options);
      loop.variable.mutable_grad() = loop.scaler.scale(torch::ones({1}));
      EXPECT_EQ(loop.variable.grad().item<float>(), scale);
      loop.scaler.unscale_(loop.optimizer);
      EXPECT_EQ(loop.variable.grad().item<float>(), 1);
    }
  }
}

TEST(JmpPorts, IncreasesOnFinite) {
  for (const auto& [period, factor] : {std::pair{20, 2}, {30, 3}}) {
    Loop loop({0}, 0.1, dialects::jmp(10).growth_interval(period).growth_factor(factor));
    for (int i = 1; i < period; ++i) {
      loop.step(1);
      EXPECT_EQ(loop.scaler.get_scale(), 10);
      EXPECT_EQ(loop.scaler.growth_tracker(), i);
    }
    loop.step(1);
    EXPECT_EQ(loop.scaler.get_scale(), 10 * factor);
    EXPECT_EQ(loop.scaler.growth_tracker(), 0);
  }
}

TEST(JmpPorts, ReducesOnNonFiniteDownToTheMinimum) {
  struct Case {
    int period, factor;
    double min;
  };
  for (const auto& [period, factor, min] :
       {Case{20, 2, 1}, {30, 3, 1}, {20, 2, .3125}, {30, 3, .37}, {5, 2, 0}}) {
    Loop loop({0}, 0.1,
              dialects::jmp(10).growth_interval(period).growth_factor(factor).min_scale(min));
    for (int i = 0; i < 100; ++i) {
      loop.step(kNan);
      const double expected = std::max(min, 10 / std::pow(factor, i + 1));
      EXPECT_NEAR(loop.scaler.get_scale(), expected, 1e-5 * expected);
      EXPECT_EQ(loop.scaler.growth_tracker(), 0);
    }
  }
}

TEST(JmpPorts, AnyNonFiniteTensorSkips) {
  for (const float bad : {kInf, kNan}) {
    for (const int place : {-1, 0, 1}) {
      auto a = torch::ones({}, torch::requires_grad());
      auto b = torch::ones({}, torch::requires_grad());
      torch::optim::SGD optimizer({a, b}, 0.5);
      GradScaler scaler(dialects::jmp(8).device_type(c10::kCPU));
      a.mutable_grad() = scaler.scale(torch::full({}, place == 0 ? bad : 1.0f));
      b.mutable_grad() = scaler.scale(torch::full({}, place == 1 ? bad : 1.0f));
      EXPECT_EQ(scaler.step(optimizer).stepped(), place == -1);
      EXPECT_EQ(a.item<float>(), place == -1 ? 0.5f : 1.0f);  // the new value or the old one
      EXPECT_EQ(b.item<float>(), place == -1 ? 0.5f : 1.0f);
    }
  }
}

TEST(KerasPorts, FiniteStep) {
  Loop loop({1, 2, 3, 4}, 0.5, dialects::keras());
  EXPECT_TRUE(loop.step(torch::tensor({1.0f, 6.0f, 7.0f, 2.0f})));
  loop.expect({0.5f, -1.0f, -0.5f, 3.0f});
}

TEST(KerasPorts, InfiniteStep) {
  Loop loop({1, 2, 3, 4}, 0.5, dialects::keras());
  EXPECT_FALSE(loop.step(kInf));
  loop.expect({1, 2, 3, 4});
}

TEST(KerasPorts, Downscaling) {
  Loop loop({1, 2, 3, 4}, 0.5, dialects::keras().init_scale(400));
  for (int i = 0; i < 4; ++i) loop.step(kInf);
  EXPECT_EQ(loop.scaler.scale(torch::ones({})).item<float>(), 25);
}

TEST(KerasPorts, Upscaling) {
  Loop loop({1, 2, 3, 4}, 0.5, dialects::keras().init_scale(2).growth_interval(2));
  for (int i = 0; i < 8; ++i) loop.step(torch::tensor({1.0f, 6.0f, 7.0f, 2.0f}));
  EXPECT_EQ(loop.scaler.scale(torch::ones({})).item<float>(), 32);
}

TEST(KerasPorts, StepsAreCounted) {
  Loop loop({1, 2, 3, 4}, 0.5, dialects::keras());
  for (int i = 1; i <= 3; ++i) {
    loop.step(1);
    const auto report = loop.scaler.overflows();
    EXPECT_EQ(report.updates - report.skipped_steps, i);
  }
  loop.step(kNan);
  EXPECT_EQ(loop.scaler.overflows().updates, 4);
  EXPECT_EQ(loop.scaler.overflows().skipped_steps, 1);
}

TEST(KerasPorts, Serialization) {
  Loop loop({1}, 0.5, dialects::keras().init_scale(3).growth_interval(2));
  std::stringstream file;
  torch::save(loop.scaler, file);
  GradScaler other(dialects::keras().device_type(c10::kCPU));
  torch::load(other, file);
  EXPECT_EQ(other.get_scale(), 3);
  EXPECT_EQ(other.get_growth_interval(), 2);
  EXPECT_EQ(other.options().arithmetic(), ScaleArithmetic::float32);
}

TEST(TfKerasPorts, FixedScale) {
  Loop loop({5}, 2, dialects::tf_keras_static(10));
  const auto gradient = loop.scaler.scale(torch::ones({1}));
  EXPECT_EQ(gradient.item<float>(), 10);
  EXPECT_TRUE(loop.step(1));
  loop.expect({3});
  EXPECT_EQ(loop.scaler.get_scale(), 10);
  EXPECT_EQ(loop.scaler.growth_tracker(), 0);
}

TEST(TfKerasPorts, UnscalesSparseGradients) {
  auto table = torch::zeros({4, 2}, torch::requires_grad());
  torch::optim::SGD optimizer({table}, 1.0);
  GradScaler scaler(dialects::tf_keras().device_type(c10::kCPU).init_scale(2));
  table.mutable_grad() =
      torch::sparse_coo_tensor(torch::tensor({{1, 3}}), scaler.scale(torch::ones({2, 2})), {4, 2});
  scaler.unscale_(optimizer);
  expect_same_bits(table.grad().to_dense(),
                   torch::tensor({{0.f, 0.f}, {1.f, 1.f}, {0.f, 0.f}, {1.f, 1.f}}));
}

TEST(TfKerasPorts, DynamicScale) {
  Loop loop({5}, 2, dialects::tf_keras().init_scale(2).growth_interval(1));
  EXPECT_EQ(loop.scaler.scale(torch::ones({1})).item<float>(), 2);
  loop.step(1);
  loop.expect({3});
  EXPECT_EQ(loop.scaler.scale(torch::ones({1})).item<float>(), 4);
  loop.step(1);
  loop.expect({1});
}

TEST(TfKerasPorts, DefaultValues) {
  const GradScaler scaler(dialects::tf_keras().device_type(c10::kCPU));
  EXPECT_EQ(scaler.get_scale(), 32768);
  EXPECT_EQ(scaler.get_growth_interval(), 2000);
}

TEST(TfKerasPorts, Clipping) {
  for (const bool by_norm : {true, false}) {
    Loop loop({5}, 2, dialects::tf_keras().init_scale(2).growth_interval(1));
    const auto step = [&](float gradient, float most) {
      loop.variable.mutable_grad() = loop.scaler.scale(torch::full({1}, gradient));
      loop.scaler.unscale_(loop.optimizer);
      if (by_norm)
        torch::nn::utils::clip_grad_norm_({loop.variable}, most);
      else
        torch::nn::utils::clip_grad_value_({loop.variable}, most);
      loop.scaler.step(loop.optimizer);
      loop.scaler.update();
      return loop.variable.item<float>();
    };
    EXPECT_NEAR(step(4, 2), 1, 1e-5);
    EXPECT_EQ(loop.scaler.get_scale(), 4);
    EXPECT_NEAR(step(4, 3), -5, 1e-5);
    EXPECT_EQ(loop.scaler.get_scale(), 8);
    const float before = loop.variable.item<float>();
    EXPECT_EQ(step(kInf, 3), before) << "skipped, not clipped";
    EXPECT_EQ(loop.scaler.get_scale(), 4);
  }
}

TEST(TfKerasPorts, DynamicUpdate) {
  Loop loop({1, 2}, 1, dialects::tf_keras().init_scale(2).growth_interval(1));
  loop.step(2);
  loop.expect({-1, 0});
  EXPECT_EQ(loop.scaler.get_scale(), 4);
  loop.step(kNan);
  loop.expect({-1, 0});
  EXPECT_EQ(loop.scaler.get_scale(), 2);
  loop.step(torch::tensor({1.0f, kNan}));  // one element is enough
  EXPECT_EQ(loop.scaler.get_scale(), 1);
  loop.step(kNan);
  EXPECT_EQ(loop.scaler.get_scale(), 1) << "the floor";
}

TEST(TfKerasPorts, MomentumUnderAMovingScale) {
  Loop loop({1, 2}, 1, dialects::tf_keras().init_scale(2).growth_interval(1), /*momentum=*/1);
  loop.step(1);
  loop.expect({0, 1});
  EXPECT_EQ(loop.scaler.get_scale(), 4);
  loop.step(1);
  loop.expect({-2, -1});
  EXPECT_EQ(loop.scaler.get_scale(), 8);
}

TEST(TfKerasPorts, Checkpoint) {
  Loop loop({1}, 1, dialects::tf_keras().init_scale(2).growth_interval(2));
  loop.step(1);
  std::stringstream file;
  torch::save(loop.scaler, file);
  Loop other({1}, 1, dialects::tf_keras().init_scale(1));
  torch::load(other.scaler, file);
  EXPECT_EQ(other.scaler.growth_tracker(), 1);
  other.step(1);
  EXPECT_EQ(other.scaler.get_scale(), 4);
}

}  // namespace halfstep::testing
