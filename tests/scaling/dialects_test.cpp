// Every dialect against a model of its system, step by step: scale to the bit, and whether the step
// was taken.
#include "halfstep/scaling/dialects.h"

#include "halfstep/core/error.h"
#include "halfstep/scaling/grad_scaler.h"

#include <functional>
#include <limits>
#include <ostream>
#include <random>
#include <set>

#include <torch/optim/sgd.h>
#include <torch/types.h>

#include "tests/scaling/dialect_models.h"
#include "tests/support/devices.h"
#include "tests/support/errors.h"

namespace halfstep::testing {

namespace {

constexpr double k2to15 = 32768, k2to16 = 65536, k2to24 = 16777216, k2to32 = 4294967296.0;
constexpr int kSteps = 10'000;

/// One of ours and one of theirs, with the same numbers.
struct Replay {
  std::string name;
  GradScalerOptions options;
  std::function<ModelPointer()> model;
  friend void PrintTo(const Replay& replay, std::ostream* out) { *out << replay.name; }
};

std::vector<Replay> defaults() {
  const DeepspeedSettings zero{k2to16, 1000, 1, 2, false, false};
  const auto keep_going = dialects::deepspeed().at_min_scale(AtMinScale::keep_going);
  return {
      {"torch", dialects::torch(), [] { return torch_model(k2to16, 2, 0.5, 2000); }},
      {"mmcv", dialects::mmcv(), [] { return torch_model(k2to16, 2, 0.5, 2000); }},
      {"mmcv_static", dialects::mmcv_static(), [] { return static_model(512, true); }},
      {"mmcv_legacy", dialects::mmcv_legacy(), [] { return mmcv_model(k2to32, 2, 1000); }},
      {"mmcv_legacy_static", dialects::mmcv_legacy_static(512),
       [] { return static_model(512, false); }},
      {"apex", dialects::apex(), [] { return apex_model(k2to16, 2000, {}, k2to24); }},
      {"apex_static", dialects::apex_static(128), [] { return static_model(128, false); }},
      {"apex_hysteresis", dialects::apex_hysteresis(3),
       [] { return apex_hysteresis_model(k2to16, 2, 0.5, 2000, 3); }},
      {"oneflow", dialects::oneflow(), [] { return oneflow_model(k2to16, 2, 2000); }},
      {"oneflow_static", dialects::oneflow_static(7.5), [] { return static_model(7.5, false); }},
      {"keras", dialects::keras(), [] { return keras_model(k2to15, 2000); }},
      {"keras_static", dialects::keras_static(64), [] { return static_model(64, false); }},
      {"tf_keras", dialects::tf_keras(), [] { return tf_keras_model(k2to15, 2000); }},
      {"tf_keras_static", dialects::tf_keras_static(64), [] { return static_model(64, false); }},
      {"jmp", dialects::jmp(), [] { return jmp_model(k2to15, 2000, 2, 1); }},
      {"jmp_static", dialects::jmp_static(k2to15), [] { return static_model(k2to15, false); }},
      {"jmp_no_op", dialects::jmp_no_op(), [] { return static_model(1, false); }},
      {"deepspeed", keep_going, [=] { return deepspeed_model(zero); }},
      {"deepspeed_fused", dialects::deepspeed_fused(),
       [] { return deepspeed_optimizer_model(k2to32, 1000, 1); }},
      {"deepspeed_unfused", dialects::deepspeed_unfused(),
       [] { return deepspeed_optimizer_model(k2to16, 1000, 0.25); }},
      {"deepspeed_static", dialects::deepspeed_static(16), [] { return static_model(16, true); }},
      {"megatron", dialects::megatron(), [] { return megatron_model(k2to32, 1, 2, 0.5, 1000, 2); }},
      {"megatron_static", dialects::megatron_static(16), [] { return static_model(16, true); }},
  };
}

/// Other numbers: short intervals, so that growth and overflow meet often; factors that round.
std::vector<Replay> variations() {
  const auto zero = [](int window, int shift, bool consecutive) {
    return [=] {
      return deepspeed_model({1024, window, 0.5, shift, consecutive, /*raise=*/false});
    };
  };
  const auto deepspeed = [](int window, int shift) {
    return dialects::deepspeed()
        .at_min_scale(AtMinScale::keep_going)
        .init_scale(1024)
        .growth_interval(window)
        .min_scale(0.5)
        .hysteresis(shift);
  };
  constexpr auto refill = HysteresisRefill::on_clean_step;
  return {
      {"torch_odd",
       dialects::torch().init_scale(1000).growth_factor(1.7).backoff_factor(0.3).growth_interval(5),
       [] { return torch_model(1000, 1.7, 0.3, 5); }},
      {"torch_every", dialects::torch().growth_interval(1),
       [] { return torch_model(k2to16, 2, 0.5, 1); }},
      {"mmcv_legacy_odd",
       dialects::mmcv_legacy().init_scale(1000).growth_factor(1.7).growth_interval(6),
       [] { return mmcv_model(1000, 1.7, 6); }},
      {"apex_floor", dialects::apex().growth_interval(4).min_scale(128).max_scale(5000),
       [] { return apex_model(k2to16, 4, 128, 5000); }},
      {"apex_hysteresis_odd",
       dialects::apex_hysteresis(4).growth_factor(1.3).backoff_factor(0.7).growth_interval(4),
       [] { return apex_hysteresis_model(k2to16, 1.3, 0.7, 4, 4); }},
      {"oneflow_odd", dialects::oneflow().init_scale(1e30).growth_factor(3.3).growth_interval(3),
       [] { return oneflow_model(1e30, 3.3, 3); }},
      {"keras_short", dialects::keras().growth_interval(7), [] { return keras_model(k2to15, 7); }},
      {"tf_keras_short", dialects::tf_keras().growth_interval(7),
       [] { return tf_keras_model(k2to15, 7); }},
      {"jmp_odd", dialects::jmp(1234.5).growth_interval(4).growth_factor(3).min_scale(0.3),
       [] { return jmp_model(1234.5, 4, 3, 0.3); }},
      {"deepspeed_short", deepspeed(5, 3), zero(5, 3, false)},
      {"deepspeed_every", deepspeed(1, 1), zero(1, 1, false)},
      {"deepspeed_consecutive", deepspeed(5, 3).hysteresis_refill(refill), zero(5, 3, true)},
      {"deepspeed_fused_short", dialects::deepspeed_fused().growth_interval(3),
       [] { return deepspeed_optimizer_model(k2to32, 3, 1); }},
      {"deepspeed_unfused_every", dialects::deepspeed_unfused().growth_interval(1),
       [] { return deepspeed_optimizer_model(k2to16, 1, 0.25); }},
      {"megatron_odd",
       dialects::megatron().growth_factor(1.7).backoff_factor(0.3).growth_interval(6).hysteresis(3),
       [] { return megatron_model(k2to32, 1, 1.7, 0.3, 6, 3); }},
  };
}

void append(std::vector<bool>& pattern, int64_t count, bool overflow) {
  pattern.insert(pattern.end(), static_cast<std::size_t>(count), overflow);
}

/// At least kSteps of overflows before, at and after each growth, alternating, in bursts, at
/// random.
std::vector<bool> mixed_pattern(int64_t interval) {
  std::mt19937 random(20);
  const auto below = [&](int64_t end) { return static_cast<int64_t>(random()) % end; };
  std::vector<bool> pattern;
  for (int64_t clean = interval - 2; clean <= interval + 2; ++clean) {
    append(pattern, std::max<int64_t>(clean, 0), false);
    append(pattern, 1, true);
  }
  for (int i = 0; i < 40; ++i) append(pattern, 1, i % 2 == 0);
  append(pattern, 2 * interval + 1, false);
  for (int burst = 1; burst <= 6; ++burst) {
    append(pattern, burst, true);
    append(pattern, below(3 * interval), false);
  }
  while (static_cast<int>(pattern.size()) < kSteps)
    append(pattern, 1, below(4 * interval) < 4 || below(12) == 0);
  return pattern;
}

enum class Guard { none, keep_in_range };

struct Counts {
  int64_t steps = 0, skips = 0, grown = 0, lowered = 0;
};

/// Runs ours and theirs side by side. In range: an overflow is left out where the scale is small
/// and put in where it is large, or a scale at 0 or inf would end the comparison.
void replay(const Replay& test, c10::Device device, const std::vector<bool>& pattern, Guard guard,
            Counts& counts) {
  const auto model = test.model();
  GradScalerOptions options = test.options;
  GradScaler scaler(options.device_type(device.type()));
  auto parameter = torch::zeros({1}, torch::device(device).requires_grad(true));
  parameter.mutable_grad() = torch::ones_like(parameter);
  torch::optim::SGD optimizer({parameter}, torch::optim::SGDOptions(0.5));
  scaler.scale(torch::ones({}, device));
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    const double before = model->scale();
    bool overflow = pattern[i];
    if (guard == Guard::keep_in_range && before < 1e-18) overflow = false;
    if (guard == Guard::keep_in_range && before > 1e36) overflow = true;
    parameter.mutable_grad().fill_(overflow ? std::numeric_limits<float>::infinity() : 1.0f);
    const bool stepped = scaler.step(optimizer).stepped();
    scaler.update();
    ASSERT_EQ(stepped, model->iterate(overflow)) << "step " << i;
    ASSERT_EQ(scaler.get_scale(), model->scale()) << "step " << i << ", overflow " << overflow;
    if (scaler.is_enabled()) {
      ASSERT_EQ(scaler.get_scale_async().item<float>(), static_cast<float>(model->scale()));
    }
    ++counts.steps;
    counts.skips += stepped ? 0 : 1;
    counts.grown += model->scale() > before;
    counts.lowered += model->scale() < before;
  }
}

}  // namespace

class Dialects : public ::testing::TestWithParam<std::tuple<c10::DeviceType, Replay>> {
 protected:
  c10::Device device() const {
    const auto type = std::get<0>(GetParam());
    return c10::Device(type, type == c10::kCUDA ? 0 : -1);
  }
  const Replay& test() const { return std::get<1>(GetParam()); }
};

TEST_P(Dialects, ReplaysItsSystem) {
  if (device().is_cuda()) HALFSTEP_REQUIRE_CUDA(1);
  const auto& options = test().options;
  const int64_t interval = options.growth_interval();
  Counts counts;
  std::vector<bool> never;
  const auto run = [&](const char* name, const std::vector<bool>& pattern, Guard guard) {
    SCOPED_TRACE(name);
    replay(test(), device(), pattern, guard, counts);
  };
  run("mixed", mixed_pattern(interval), Guard::keep_in_range);
  EXPECT_GE(counts.steps, kSteps);
  run("always", std::vector<bool>(300, true), Guard::none);
  // Short intervals grow past float32, and the shortest past float64.
  append(never, std::max<int64_t>(4 * interval, 1500), false);
  run("never", never, Guard::none);
  std::vector<bool> alternate(400, true);
  for (std::size_t i = 0; i < alternate.size(); i += 2) alternate[i] = false;
  run("alternate", alternate, Guard::none);

  if (!options.enabled() || !options.check_overflow()) {
    EXPECT_EQ(counts.skips, 0);
  } else {
    EXPECT_GE(counts.skips, 300);
  }
  if (options.enabled() && options.dynamic()) {
    EXPECT_GE(counts.grown, 5);
    EXPECT_GE(counts.lowered, 15);
  } else {
    EXPECT_EQ(counts.grown + counts.lowered, 0);
  }
}

namespace {
std::string case_name(const ::testing::TestParamInfo<Dialects::ParamType>& info) {
  return std::string(std::get<0>(info.param) == c10::kCPU ? "CPU" : "CUDA") + "_" +
         std::get<1>(info.param).name;
}
}  // namespace

INSTANTIATE_TEST_SUITE_P(Defaults, Dialects,
                         ::testing::Combine(::testing::Values(c10::kCPU, c10::kCUDA),
                                            ::testing::ValuesIn(defaults())),
                         case_name);
INSTANTIATE_TEST_SUITE_P(Variations, Dialects,
                         ::testing::Combine(::testing::Values(c10::kCPU, c10::kCUDA),
                                            ::testing::ValuesIn(variations())),
                         case_name);

namespace {

/// One iteration whose gradient overflows or not.
void iterate(GradScaler& scaler, bool overflow) {
  auto parameter = torch::zeros({1}, torch::requires_grad());
  parameter.mutable_grad() =
      torch::full({1}, overflow ? std::numeric_limits<float>::infinity() : 1.0f);
  torch::optim::SGD optimizer({parameter}, torch::optim::SGDOptions(0.5));
  scaler.scale(torch::ones({}));
  ASSERT_EQ(scaler.step(optimizer).stepped(), !overflow);
  scaler.update();
}

}  // namespace

// The two others that first grow one step late, and the rest, which grow at the interval exactly.
TEST(DialectTables, FirstGrowthComesAtTheIntervalOrOneLater) {
  for (const auto& name : dialects::names()) {
    auto options = dialects::by_name(name).device_type(c10::kCPU).growth_interval(4);
    if (!options.dynamic() || !options.enabled()) continue;
    SCOPED_TRACE(name);
    const bool late = name.starts_with("deepspeed");
    GradScaler scaler(options);
    for (const int expected : {late ? 5 : 4, 4}) {
      const double start = scaler.get_scale();
      int steps = 0;
      while (scaler.get_scale() == start && steps < 10) {
        iterate(scaler, false);
        ++steps;
      }
      EXPECT_EQ(steps, expected);
    }
  }
}

// DeepSpeed ends the run at the overflow its model raises at, hysteresis included.
TEST(DialectTables, DeepspeedRaisesAtTheFloor) {
  for (const int hysteresis : {1, 2, 4}) {
    SCOPED_TRACE(hysteresis);
    const auto model = deepspeed_model({8, 1000, 1, hysteresis, false, true});
    GradScaler scaler(
        dialects::deepspeed().device_type(c10::kCPU).init_scale(8).hysteresis(hysteresis));
    int steps = 0;
    bool raised = false;
    for (; !raised && steps < 100; ++steps) {
      try {
        model->iterate(true);
        iterate(scaler, true);
      } catch (const AtMinimum&) {
        raised = true;
        EXPECT_ERROR(iterate(scaler, true), UsageError, "[GradScaler::update]",
                     "overflows must end once the scale is at its minimum", "1 in a row",
                     "scale 1");
      }
      ASSERT_EQ(scaler.get_scale(), model->scale());
    }
    EXPECT_EQ(steps, 3 + hysteresis);
  }
}

TEST(DialectTables, NamesFindTheirOptions) {
  std::set<std::string> seen;
  for (const auto& name : dialects::names()) {
    SCOPED_TRACE(name);
    EXPECT_TRUE(seen.insert(name).second);
    const auto options = dialects::by_name(name);
    EXPECT_NO_THROW(options.validate());
    EXPECT_EQ(options.dynamic(), !name.ends_with("_static"));
  }
  EXPECT_EQ(seen.size(), defaults().size()) << "a dialect without a replay";
  for (const auto& replay : defaults()) {
    SCOPED_TRACE(replay.name);
    EXPECT_EQ(seen.count(replay.name), 1u);
  }
  EXPECT_EQ(dialects::by_name("apex").max_scale(), k2to24);
  EXPECT_ERROR(dialects::by_name("apx"), UsageError, "[dialects::by_name]", "torch, mmcv",
               "but got 'apx'");
}

}  // namespace halfstep::testing
