// Clipping: as functions, and inside the step of a fused optimizer.
#include "halfstep/core/error.h"
#include "halfstep/optim.h"
#include "halfstep/scaling/grad_scaler.h"

#include <cmath>
#include <limits>

#include <ATen/record_function.h>
#include <torch/nn/utils/clip_grad.h>
#include <torch/types.h>

#include "tests/optim/make_optimizer.h"
#include "tests/support/devices.h"
#include "tests/support/errors.h"
#include "tests/support/tolerance.h"

namespace halfstep::testing {

using optim::AdamOptions;
using optim::Kernel;

class Clip : public DeviceTest {
 protected:
  std::vector<at::Tensor> parameters(unsigned seed = 0) {
    torch::manual_seed(seed);
    const auto here = torch::device(device());
    return {torch::randn({30, 7}, here).requires_grad_(), torch::randn({5}, here).requires_grad_(),
            torch::randn({4}, here).requires_grad_()};
  }
  void set_gradients(const std::vector<at::Tensor>& tensors, double factor, unsigned seed = 1) {
    torch::manual_seed(seed);
    for (size_t i = 0; i + 1 < tensors.size(); ++i)  // the last one has none
      tensors[i].mutable_grad() =
          torch::randn(tensors[i].sizes(), torch::device(device())) * factor;
  }
};
HALFSTEP_ON_EACH_DEVICE(Clip);

namespace {

/// Counts calls of an op whose name contains a text.
class OpCounter {
 public:
  explicit OpCounter(std::string_view text) {
    text_ = text;
    count_ = 0;
    handle_ = at::addThreadLocalCallback(
        at::RecordFunctionCallback([](const at::RecordFunction& function)
                                       -> std::unique_ptr<at::ObserverContext> {
          if (std::string_view(function.name()).find(text_) != std::string_view::npos) ++count_;
          return nullptr;
        }).scopes({at::RecordScope::FUNCTION}));
  }
  ~OpCounter() { at::removeCallback(handle_); }
  OpCounter(const OpCounter&) = delete;
  OpCounter& operator=(const OpCounter&) = delete;
  static int count() { return count_; }

 private:
  static inline thread_local std::string_view text_;
  static inline thread_local int count_ = 0;
  at::CallbackHandle handle_{};
};

}  // namespace

TEST_P(Clip, NormAsInPython) {
  for (const double factor : {1e-3, 1.0, 1e3}) {
    const auto ours = parameters(), theirs = parameters();
    set_gradients(ours, factor);
    set_gradients(theirs, factor);
    at::Tensor norm;
    {
      const OpCounter reads("_local_scalar_dense");
      norm = optim::clip_grad_norm_(ours, 2.0);
      EXPECT_EQ(OpCounter::count(), 0) << "it must not sync";
    }
    const double expected = torch::nn::utils::clip_grad_norm_(theirs, 2.0);
    EXPECT_EQ(norm.device(), ours[0].device());
    EXPECT_EQ(norm.dim(), 0);
    EXPECT_NEAR(norm.item<double>() / expected, 1, 1e-6);
    for (size_t i = 0; i < 2; ++i) expect_close(ours[i].grad(), theirs[i].grad(), {1e-6, 0});
    if (factor < 1) {
      set_gradients(theirs, factor);
      expect_same_bits(ours[0].grad(), theirs[0].grad());
    }
  }
}

TEST_P(Clip, NormOfLargeAndLowPrecisionGradients) {
  for (const auto dtype : {torch::kHalf, torch::kBFloat16, torch::kDouble, torch::kFloat}) {
    const auto p = torch::zeros({1000}, torch::device(device()).dtype(dtype)).requires_grad_();
    const double value = dtype == torch::kHalf                         ? 30000
                         : dtype == torch::kFloat && device().is_cpu() ? 1e25
                                                                       : 1e15;
    p.mutable_grad() = torch::full_like(p, value);
    const auto norm = optim::clip_grad_norm_({p}, 1.0);
    EXPECT_NEAR(norm.item<double>() / (value * std::sqrt(1000)), 1, 0.01) << dtype;
    // float16: LibTorch rounds the factor, one in a million, to float16 too.
    EXPECT_NEAR(p.grad().to(torch::kDouble).norm().item<double>(), 1,
                dtype == torch::kHalf ? 0.03 : 0.01);
  }
}

TEST_P(Clip, Float16GradientsOfAnyRange) {
  const auto p = torch::zeros({4}, torch::device(device()).dtype(torch::kHalf)).requires_grad_();
  p.mutable_grad() = torch::full_like(p, 60000);
  optim::clip_grad_value_({p}, 1e5);
  EXPECT_EQ(p.grad()[0].item<float>(), 60000);
  optim::clip_grad_norm_({p}, 1e-3);
  EXPECT_NEAR(p.grad()[0].item<float>(), 5e-4, 2e-6) << "the factor is no float16";
}

TEST_P(Clip, FiniteGradientsWhoseNormIsNoFloat32AreNoOverflow) {
  if (!device().is_cpu()) GTEST_SKIP() << "on CUDA squares are summed in float32";
  const auto p = torch::zeros({2}).requires_grad_();
  p.mutable_grad() = torch::full({2}, 3e38F);
  optim::SGD sgd({p}, optim::SGDOptions(1).clip_norm(1));
  GradScaler scaler(GradScalerOptions(torch::kCPU).init_scale(1));
  scaler.scale(torch::ones({}));
  EXPECT_TRUE(scaler.step(sgd).stepped());
  EXPECT_NEAR(p[0].item<double>(), -std::sqrt(0.5), 1e-6);
}

TEST_P(Clip, AnExpandedGradientIsLeftAlone) {
  for (const auto kernel : {Kernel::automatic, Kernel::aten}) {
    const auto p = torch::zeros({3}, torch::device(device())).requires_grad_();
    p.mutable_grad() = torch::full({1}, 4.0F, torch::device(device())).expand({3});
    optim::SGD sgd({p}, optim::SGDOptions(1).clip_value(1).kernel(kernel));
    sgd.step();
    EXPECT_EQ(p[2].item<float>(), -1);
    EXPECT_EQ(p.grad()[2].item<float>(), 4);
  }
}

// Unscaled in float16 such gradients would be 0.
TEST_P(Clip, ValuesOfScaledFloat16GradientsDoNotFadeToZero) {
  for (const auto kernel : {Kernel::automatic, Kernel::aten}) {
    const auto p = torch::zeros({2}, torch::device(device()).dtype(torch::kHalf)).requires_grad_();
    p.mutable_grad() = torch::full_like(p, 6.5e-4);
    optim::SGD sgd({p}, optim::SGDOptions(100).clip_value(1).kernel(kernel));
    sgd.grad_scale = torch::full({}, 65536.0F, torch::device(device()));
    sgd.step();
    EXPECT_NEAR(p[0].item<float>(), -1e-6, 1e-7);
  }
}

TEST_P(Clip, NonfiniteNorms) {
  const auto p = parameters();
  set_gradients(p, 1);
  p[0].mutable_grad()[3][3] = std::numeric_limits<float>::infinity();
  const auto before = p[1].grad().clone();
  EXPECT_ERROR(optim::clip_grad_norm_(p, 1.0, true), UsageError, "[clip_grad_norm_]",
               "must be finite, but is inf", "error_if_nonfinite");
  expect_same_bits(p[1].grad(), before);
  EXPECT_TRUE(std::isinf(optim::clip_grad_norm_(p, 1.0).item<float>()));
  EXPECT_EQ(p[1].grad().abs().max().item<float>(), 0) << "as in Python";
  EXPECT_TRUE(p[0].grad()[3][3].isnan().item<bool>());
  EXPECT_ERROR(optim::clip_grad_norm_(p, -1.0), UsageError, "max_norm must be at least 0");
  EXPECT_EQ(optim::clip_grad_norm_(std::vector<at::Tensor>(), 1.0).item<float>(), 0);
}

TEST_P(Clip, Values) {
  const auto p = parameters();
  set_gradients(p, 1);
  p[1].mutable_grad()[0] = NAN;
  const auto expected = p[0].grad().clamp(-0.5, 0.5);
  optim::clip_grad_value_(p, 0.5);
  expect_same_bits(p[0].grad(), expected);
  EXPECT_LT(expected.abs().min().item<float>(), 0.5F);
  EXPECT_EQ(expected.abs().max().item<float>(), 0.5F);
  EXPECT_TRUE(p[1].grad()[0].isnan().item<bool>());
  EXPECT_ERROR(optim::clip_grad_value_(p, NAN), UsageError, "max_value must be");
  optim::clip_grad_value_(p, 1e300);
  expect_same_bits(p[0].grad(), expected);
}

// After unscaling, once, before the update; the same as the three calls one after the other.
TEST_P(Clip, InsideAScaledStep) {
  for (const auto kernel : {Kernel::automatic, Kernel::aten}) {
    for (const bool by_value : {false, true}) {
      for (const bool separate : {false, true}) {
        SCOPED_TRACE(c10::str("by value ", by_value, ", unscale_ ", separate));
        const auto inside = parameters(), outside = parameters();
        auto options = AdamOptions(0.1).kernel(kernel).weight_decay(0.1);
        optim::Adam plain(outside, options);
        if (by_value)
          options.clip_value(0.3);
        else
          options.clip_norm(0.7);
        optim::Adam clipping(inside, options);
        const auto scaler_options = GradScalerOptions(GetParam()).init_scale(1000);
        GradScaler inside_scaler(scaler_options), outside_scaler(scaler_options);
        for (int step = 0; step < 5; ++step) {
          for (auto& scaler : {&inside_scaler, &outside_scaler})
            scaler->scale(torch::ones({}, torch::device(device())));
          set_gradients(inside, 1000, 10 + step);
          set_gradients(outside, 1000, 10 + step);
          if (step == 2) {
            for (const auto& p : {inside, outside}) p[0].mutable_grad()[1][1] = NAN;
          }
          if (separate) inside_scaler.unscale_(clipping);
          const bool stepped = inside_scaler.step(clipping).stepped();
          inside_scaler.update();
          outside_scaler.unscale_(plain);
          const auto norm = optim::clip_grad_norm_(plain, by_value ? 1e30 : 0.7);
          if (by_value) optim::clip_grad_value_(plain, 0.3);
          outside_scaler.step(plain);
          outside_scaler.update();
          EXPECT_EQ(stepped, step != 2);
          if (!by_value && step != 2) {
            EXPECT_NEAR(clipping.grad_norm().item<double>() / norm.item<double>(), 1, 1e-6);
            EXPECT_GT(norm.item<double>(), 0.7) << "nothing was clipped";
          }
          for (size_t i = 0; i < inside.size(); ++i)
            expect_close(inside[i], outside[i], {1e-6, 1e-6});
          // Both scales backed off at step 2 alike.
          inside_scaler.update(1000.0);
          outside_scaler.update(1000.0);
        }
        EXPECT_EQ(clipping.grad_norm().defined(), !by_value);
      }
    }
  }
}

TEST_P(Clip, TheStepOfACpuOptimizerReadsGradientsTwiceAtMost) {
  if (!device().is_cpu()) GTEST_SKIP() << "on CUDA the foreach ops do it";
  const auto p = parameters();
  optim::Adam adam(p, AdamOptions(0.1).clip_norm(0.7));
  GradScaler scaler(GradScalerOptions(GetParam()).init_scale(8));
  scaler.scale(torch::ones({}));
  set_gradients(p, 8);
  const auto before = p[0].grad().clone();
  const OpCounter foreach_ops("_foreach_");
  EXPECT_TRUE(scaler.step(adam).stepped());
  EXPECT_EQ(OpCounter::count(), 0) << "the scaler checked although the optimizer had";
  expect_same_bits(p[0].grad(), before);
}

TEST_P(Clip, TheStepUsesTheNormThatTheCheckTook) {
  if (!device().is_cpu()) GTEST_SKIP() << "on CUDA the scaler checks";
  const auto p = parameters();
  optim::SGD sgd(p, optim::SGDOptions(0.1).clip_norm(0.7));
  set_gradients(p, 1);
  const auto norm = optim::clip_grad_norm_(p, 1e9).item<float>();
  ASSERT_TRUE(sgd.check_gradients().has_value());
  p[0].mutable_grad().mutable_data_ptr<float>()[0] = 1e6;  // which nobody can see
  sgd.step();
  EXPECT_NEAR(sgd.grad_norm().item<float>(), norm, 1e-5 * norm);
}

TEST_P(Clip, ANormThatWasTakenForOtherGradientsIsNotUsed) {
  const auto p = parameters(), control = parameters();
  optim::SGD sgd(p, optim::SGDOptions(0.1).clip_norm(0.7));
  optim::SGD other(control, optim::SGDOptions(0.1).clip_norm(0.7));
  set_gradients(p, 1);
  sgd.check_gradients();
  p[0].mutable_grad().mul_(100);
  sgd.step();
  set_gradients(control, 1);
  control[0].mutable_grad().mul_(100);
  other.step();
  expect_same_bits(p[0], control[0]);
  EXPECT_GT(sgd.grad_norm().item<float>(), 500);
}

TEST_P(Clip, RulesOfTheOptions) {
  const auto p = parameters();
  EXPECT_ERROR(optim::Adam(p, AdamOptions().clip_norm(-1)), UsageError, "[Adam] clip_norm must be");
  EXPECT_ERROR(optim::Adam(p, AdamOptions().clip_norm(1).clip_value(1)), UsageError,
               "only one of clip_norm and clip_value");
  std::vector<torch::optim::OptimizerParamGroup> groups;
  groups.emplace_back(p, std::make_unique<AdamOptions>(AdamOptions().clip_norm(1)));
  EXPECT_ERROR(optim::Adam(groups, AdamOptions()), UsageError, "hold for all groups",
               "but group 0 sets other ones");
  optim::Adam fine(groups, AdamOptions().clip_norm(1));
}

}  // namespace halfstep::testing
