// The update rule by its three ways, what options it refuses, and what it saves.
#include "halfstep/scaling/scale_rule.h"

#include "halfstep/core/error.h"
#include "halfstep/scaling/dialects.h"
#include "halfstep/scaling/grad_scaler.h"
#include "halfstep/scaling/scale_state.h"

#include <bit>
#include <cmath>
#include <random>
#include <sstream>

#include <torch/optim/sgd.h>
#include <torch/serialize.h>
#include <torch/types.h>

#include "tests/scaling/fused_for_tests.h"
#include "tests/support/devices.h"
#include "tests/support/errors.h"
#include "tests/support/special_values.h"

namespace halfstep::testing {

namespace {

/// Every dialect's rule, and each of them with numbers that round and meet the floor and ceiling.
std::vector<std::pair<std::string, GradScalerOptions>> rules() {
  std::vector<std::pair<std::string, GradScalerOptions>> all;
  for (const auto& name : dialects::names()) {
    const auto options = dialects::by_name(name);
    all.emplace_back(name, options);
    auto odd = options;
    odd.init_scale(321.1).growth_factor(1.7).backoff_factor(0.3).growth_interval(3);
    odd.min_scale(0.7).max_scale(1e6).hysteresis(4);
    all.emplace_back(name + ", odd", odd);
    odd.hysteresis_refill(HysteresisRefill::on_clean_step).grow_only_if_finite(true);
    all.emplace_back(name + ", odd, refilled by clean steps", odd);
  }
  return all;
}

/// Bits, so that -0 and NaN don't pass for something else.
void expect_same(const detail::ScaleValues& got, const detail::ScaleValues& expected) {
  EXPECT_EQ(std::bit_cast<uint64_t>(got.scale), std::bit_cast<uint64_t>(expected.scale));
  EXPECT_EQ(got, expected);
}

}  // namespace

class ScaleRules : public DeviceTest {
 protected:
  at::Tensor flag(bool overflow) const {
    return torch::full({}, overflow ? 1.0f : 0.0f, torch::device(device()));
  }
};
HALFSTEP_ON_EACH_DEVICE(ScaleRules);

TEST_P(ScaleRules, TensorOperationsAreTheScalarRule) {
  for (const auto& [name, options] : rules()) {
    SCOPED_TRACE(name);
    const auto& rule = options.rule();
    const auto start = detail::start_values(rule, options.init_scale());
    detail::ScaleState by_operations(start), on_host(start);
    by_operations.materialize(rule, device(), /*watch=*/true);
    on_host.materialize(rule, c10::Device(c10::kCPU), /*watch=*/true);
    std::mt19937 random(5);
    int64_t moved = 0, stuck = 0, absorbed = 0;
    for (int i = 0; i < 700; ++i) {
      const bool overflow = i < 500 ? random() % 4 == 0 : i < 650;
      const auto before = on_host.values();
      by_operations.update_by_operations(rule, flag(overflow));
      on_host.update_on_host(rule, torch::full({}, overflow ? 1.0f : 0.0f));
      const auto after = on_host.values();
      expect_same(by_operations.values(), after);
      if (HasFailure()) FAIL() << "update " << i;
      ASSERT_EQ(by_operations.scale().item<float>(), on_host.scale().item<float>());
      moved += before.scale != after.scale;
      stuck += after.stuck > 0;
      absorbed += after.hysteresis_tracker < before.hysteresis_tracker;
    }
    EXPECT_GT(stuck, 0);
    if (rule.dynamic) {
      EXPECT_GT(moved, 10);
      EXPECT_TRUE(absorbed > 0 || rule.hysteresis == 1);
    }
  }
}

TEST_P(ScaleRules, TorchsRuleIsItsKernel) {
  auto options = GradScalerOptions().growth_factor(1.7).backoff_factor(0.3).growth_interval(3);
  const auto& rule = options.rule();
  ASSERT_TRUE(detail::is_torch_rule(rule));
  ASSERT_FALSE(detail::is_torch_rule(dialects::apex().rule()));
  detail::ScaleState kernel(detail::start_values(rule, 1e30)), scalar(kernel.values());
  kernel.materialize(rule, device(), /*watch=*/true);
  scalar.materialize(rule, c10::Device(c10::kCPU), /*watch=*/true);
  std::mt19937 random(6);
  for (int i = 0; i < 2000; ++i) {
    const bool overflow = i < 1000 ? random() % 7 == 0 : i > 1800;  // past float32, then to 0
    kernel.update(rule, flag(overflow));
    scalar.update_on_host(rule, torch::full({}, overflow ? 1.0f : 0.0f));
    expect_same(kernel.values(), scalar.values());
    if (HasFailure()) FAIL() << "update " << i;
  }
  EXPECT_EQ(kernel.values().scale, 0);
  EXPECT_GT(kernel.values().stuck, 20);
}

TEST_P(ScaleRules, StuckCountsBackoffsThatCantLowerTheScale) {
  auto options = dialects::megatron().init_scale(4).hysteresis(2);
  const auto& rule = options.rule();
  detail::ScaleState state(detail::start_values(rule, 4));
  state.materialize(rule, device(), /*watch=*/true);
  const auto stuck_after = [&](bool overflow) {
    state.update(rule, flag(overflow));
    return state.values().stuck;
  };
  EXPECT_EQ(stuck_after(true), 0);  // absorbed
  EXPECT_EQ(stuck_after(true), 0);  // 4 -> 2
  EXPECT_EQ(stuck_after(true), 0);  // 2 -> 1
  EXPECT_EQ(stuck_after(true), 1);
  EXPECT_EQ(stuck_after(true), 2);
  EXPECT_EQ(stuck_after(false), 0);
  EXPECT_EQ(stuck_after(true), 1);
}

namespace {

/// A parameter whose gradient overflows or not, and an optimizer for it.
struct OneStep {
  at::Tensor parameter;

  OneStep(c10::Device device, float gradient)
      : parameter(torch::zeros({2}, torch::device(device).requires_grad(true))) {
    parameter.mutable_grad() = torch::full({2}, gradient, device);
  }
  torch::optim::SGD sgd() const {
    return torch::optim::SGD({parameter}, torch::optim::SGDOptions(0.5));
  }
};

void iterate(GradScaler& scaler, c10::Device device, bool overflow) {
  scaler.scale(torch::ones({}, device));
  const OneStep step(device, overflow ? kInf : 1.0f);
  auto optimizer = step.sgd();
  ASSERT_EQ(scaler.step(optimizer).stepped(), !overflow);
  scaler.update();
}

}  // namespace

TEST_P(ScaleRules, UncheckedStaticScaleStepsAlways) {
  for (const bool fused : {false, true}) {
    for (const bool unscale_first : {false, true}) {
      SCOPED_TRACE(c10::str(fused ? "fused" : "ordinary", unscale_first ? ", unscale_ first" : ""));
      GradScaler scaler(dialects::oneflow_static(8).device_type(GetParam()));
      for (const float gradient : {16.0f, kInf}) {
        scaler.scale(torch::ones({}, device()));
        OneStep step(device(), gradient);
        auto sgd = step.sgd();
        FusedForTests own({step.parameter}, FusedForTests::Kind::sgd, /*lr=*/0.5);
        torch::optim::Optimizer& optimizer =
            fused ? static_cast<torch::optim::Optimizer&>(own) : sgd;
        if (unscale_first) scaler.unscale_(optimizer);
        const auto result = scaler.step(optimizer);
        scaler.update();
        EXPECT_TRUE(result.is_known()) << "nothing to wait for";
        EXPECT_TRUE(result.stepped());
        EXPECT_EQ(step.parameter[0].item<float>(), gradient == kInf ? -kInf : -1.0f);
        EXPECT_EQ(scaler.get_scale(), 8);
      }
    }
  }
}

TEST_P(ScaleRules, ScaleBeyondFloat32ComesBack) {
  GradScaler scaler(
      dialects::mmcv_legacy().device_type(GetParam()).init_scale(1e38).growth_interval(1));
  for (int i = 0; i < 4; ++i) iterate(scaler, device(), false);
  EXPECT_EQ(scaler.get_scale(), 16e38);
  EXPECT_EQ(scaler.get_scale_async().item<float>(), kInf);
  const auto saved = scaler.state();
  for (int i = 0; i < 4; ++i) iterate(scaler, device(), true);
  EXPECT_EQ(scaler.get_scale(), 1e38);
  EXPECT_EQ(scaler.get_scale_async().item<float>(), 1e38f);
  GradScaler resumed(dialects::mmcv_legacy().device_type(GetParam()));
  resumed.load_state(saved);
  EXPECT_EQ(resumed.get_scale(), 16e38);
}

TEST_P(ScaleRules, StateGoesOnInEveryDialect) {
  for (const auto& [name, options] : rules()) {
    if (!options.enabled() || !options.check_overflow()) continue;
    SCOPED_TRACE(name);
    auto ours = options;
    ours.device_type(GetParam()).growth_interval(4).at_min_scale(AtMinScale::keep_going);
    GradScaler unbroken(ours);
    std::optional<GradScaler> broken(std::in_place, ours);
    bool saw_used_hysteresis = false;
    std::mt19937 random(9);
    for (int i = 0; i < 40; ++i) {
      const bool overflow = random() % 5 == 0;
      iterate(unbroken, device(), overflow);
      iterate(*broken, device(), overflow);
      std::stringstream file;
      torch::save(*broken, file);
      broken.emplace(ours);
      torch::load(*broken, file);
      ASSERT_EQ(broken->state(), unbroken.state()) << "step " << i;
      ASSERT_EQ(broken->hysteresis_tracker(), unbroken.hysteresis_tracker()) << "step " << i;
      saw_used_hysteresis |= unbroken.hysteresis_tracker() < ours.hysteresis();
    }
    EXPECT_EQ(unbroken.state()->hysteresis_tracker.has_value(), ours.hysteresis() > 1);
    EXPECT_TRUE(saw_used_hysteresis || ours.hysteresis() == 1 || !ours.dynamic());
  }
}

TEST_P(ScaleRules, OldStateFillsTheHysteresis) {
  GradScaler old(GradScalerOptions(GetParam()).init_scale(64));
  std::stringstream file;
  torch::save(old, file);
  GradScaler scaler(dialects::megatron().device_type(GetParam()));
  iterate(scaler, device(), true);
  ASSERT_EQ(scaler.hysteresis_tracker(), 1);
  torch::load(scaler, file);
  EXPECT_EQ(scaler.hysteresis_tracker(), 2);
  EXPECT_EQ(scaler.get_scale(), 64);
  auto wrong = *scaler.state();
  wrong.hysteresis_tracker = 0;
  EXPECT_ERROR(scaler.load_state(wrong), UsageError, "hysteresis_tracker must be 1 or more",
               "got 0");
}

// Counted since the overflow, a new interval is met at its multiples; else the count can't pass it.
TEST_P(ScaleRules, NewIntervalMeetsTheCount) {
  GradScaler modulo(dialects::mmcv_legacy().device_type(GetParam()).growth_interval(100));
  GradScaler counter(GradScalerOptions(GetParam()).growth_interval(100));
  for (int i = 0; i < 9; ++i) {
    iterate(modulo, device(), false);
    iterate(counter, device(), false);
  }
  modulo.set_growth_interval(4);
  counter.set_growth_interval(4);
  const double modulo_start = modulo.get_scale(), counter_start = counter.get_scale();
  for (const int clean : {10, 11, 12}) {
    iterate(modulo, device(), false);
    iterate(counter, device(), false);
    EXPECT_EQ(modulo.get_scale(), clean == 12 ? 2 * modulo_start : modulo_start);
    EXPECT_EQ(counter.get_scale(), 2 * counter_start);
  }
}

TEST_P(ScaleRules, StopComesAfterThePatience) {
  for (const auto& [options, lowered] : std::vector<std::pair<GradScalerOptions, int>>{
           {GradScalerOptions().init_scale(4).min_scale(1), 2},
           {GradScalerOptions().init_scale(std::ldexp(1.0, -120)), 6},  // to 2^-126
           {dialects::mmcv_static(64), 0}}) {
    auto stops = options;
    stops.device_type(GetParam()).at_min_scale(AtMinScale::stop).min_scale_patience(3);
    GradScaler scaler(stops);
    for (int i = 0; i < lowered; ++i) iterate(scaler, device(), true);
    for (int i = 0; i < 2; ++i) iterate(scaler, device(), true);
    iterate(scaler, device(), false);
    for (int i = 0; i < 2; ++i) iterate(scaler, device(), true);
    EXPECT_ERROR(
        {
          // On CUDA the host learns of it late.
          for (int i = 0; i < (device().is_cuda() ? 1000 : 1); ++i) iterate(scaler, device(), true);
        },
        UsageError, "[GradScaler::update] overflows must end once the scale is at its minimum",
        "in a row");
  }
}

TEST(ScaleRuleOptions, OutOfRangeIsAnError) {
  const auto valid = [] { return GradScalerOptions(c10::kCPU); };
  EXPECT_ERROR(valid().check_overflow(false).validate(), UsageError,
               "check_overflow must be true for a dynamic scale", "dynamic(false)");
  EXPECT_ERROR(valid().min_scale(-1).validate(), UsageError,
               "min_scale must be from 0 to max_scale", "got -1");
  EXPECT_ERROR(valid().min_scale(8).max_scale(4).validate(), UsageError, "max_scale 4", "got 8");
  EXPECT_ERROR(valid().init_scale(4).min_scale(8).validate(), UsageError,
               "min_scale must not be above init_scale 4", "got 8");
  EXPECT_ERROR(valid().max_scale(0).validate(), UsageError, "max_scale must be above 0");
  EXPECT_ERROR(valid().hysteresis(0).validate(), UsageError, "hysteresis must be from 1", "got 0");
  EXPECT_ERROR(valid().growth_offset(-1).validate(), UsageError, "growth_offset must be from 0",
               "got -1");
  EXPECT_ERROR(valid().growth_offset(2147483647).validate(), UsageError,
               "growth_offset and growth_interval together");
  GradScaler divides(valid().backoff_divides(true));
  EXPECT_ERROR(divides.set_backoff_factor(0.25), UsageError, "[GradScaler::set_backoff_factor]",
               "must back off by a factor", "divides by growth_factor");
  EXPECT_ERROR(valid().min_scale_patience(0).validate(), UsageError,
               "min_scale_patience must be at least 1", "got 0");
  EXPECT_ERROR(
      valid().dynamic(false).check_overflow(false).at_min_scale(AtMinScale::stop).validate(),
      UsageError, "at_min_scale must be keep_going where nobody checks");
}

}  // namespace halfstep::testing
