#include "halfstep/train/optim/schedulers.h"

#include "halfstep/core/error.h"
#include "halfstep/optim/one_cycle.h"
#include "halfstep/train/registry/registry.h"

#include "tests/support/errors.h"

namespace halfstep::train {
namespace {

optim::Schedule build_schedule(const std::string& yaml) {
  Config config = Config::parse("s: " + yaml, "x.yaml");
  Config child = config.child("s");
  auto schedule = schedulers().build(child);
  config.finish();
  return schedule;
}

struct Case {
  const char* yaml;
  optim::Schedule schedule;
};

void PrintTo(const Case& c, std::ostream* out) {
  *out << c.yaml;
}

class SchedulerConfigs : public ::testing::TestWithParam<Case> {};

}  // namespace

TEST_P(SchedulerConfigs, MakeTheScheduleTheySay) {
  const auto built = build_schedule(GetParam().yaml);
  const auto& expected = GetParam().schedule;
  bool changes = false;
  for (int64_t n = 0; n < 20; ++n) {
    EXPECT_EQ(built.rate(0.05, n), expected.rate(0.05, n)) << "n " << n;
    EXPECT_EQ(built.momentum(n), expected.momentum(n)) << "n " << n;
    changes = changes || built.rate(0.05, n) != built.rate(0.05, 0);
  }
  EXPECT_TRUE(changes) << "a schedule that stands still proves nothing";
}

INSTANTIATE_TEST_SUITE_P(
    All, SchedulerConfigs,
    ::testing::Values(
        Case{"{type: StepLR, step_size: 3}", optim::step_lr(3)},
        Case{"{type: StepLR, step_size: 3, gamma: 0.3}", optim::step_lr(3, 0.3)},
        Case{"{type: MultiStepLR, milestones: [1, 4, 10], gamma: 0.5}",
             optim::multi_step_lr({1, 4, 10}, 0.5)},
        Case{"{type: ExponentialLR, gamma: 0.9}", optim::exponential_lr(0.9)},
        Case{"{type: ConstantLR}", optim::constant_lr()},
        Case{"{type: ConstantLR, factor: 0.5, total_iters: 3}", optim::constant_lr(0.5, 3)},
        Case{"{type: LinearLR}", optim::linear_lr()},
        Case{"{type: LinearLR, start_factor: 0.5, end_factor: 0.2, total_iters: 3}",
             optim::linear_lr(0.5, 0.2, 3)},
        Case{"{type: PolynomialLR}", optim::polynomial_lr()},
        Case{"{type: PolynomialLR, total_iters: 7, power: 2.0}", optim::polynomial_lr(7, 2)},
        Case{"{type: CosineAnnealingLR, T_max: 8, eta_min: 0.001}",
             optim::cosine_annealing_lr(8, 0.001)},
        Case{"{type: CosineAnnealingWarmRestarts, T_0: 3, T_mult: 2, eta_min: 0.01}",
             optim::cosine_annealing_warm_restarts(3, 2, 0.01)},
        Case{"{type: OneCycleLR, max_lr: 0.3, total_steps: 15}",
             optim::one_cycle_lr(optim::OneCycleOptions(0.3, 15))},
        Case{"{type: OneCycleLR, max_lr: 0.3, total_steps: 15, pct_start: 0.4, anneal_strategy: "
             "linear, base_momentum: 0.8, max_momentum: 0.9, div_factor: 10, final_div_factor: "
             "100, three_phase: true}",
             optim::one_cycle_lr(optim::OneCycleOptions(0.3, 15)
                                     .pct_start(0.4)
                                     .anneal_strategy(optim::OneCycleOptions::Anneal::linear)
                                     .base_momentum(0.8)
                                     .max_momentum(0.9)
                                     .div_factor(10)
                                     .final_div_factor(100)
                                     .three_phase(true))},
        Case{"{type: OneCycleLR, max_lr: 0.3, total_steps: 15, cycle_momentum: false}",
             optim::one_cycle_lr(optim::OneCycleOptions(0.3, 15).cycle_momentum(false))},
        Case{"{type: SequentialLR, milestones: [4], schedulers: [{type: LinearLR, total_iters: 4}, "
             "{type: ExponentialLR, gamma: 0.5}]}",
             optim::sequential_lr({optim::linear_lr(1.0 / 3, 1.0, 4), optim::exponential_lr(0.5)},
                                  {4})},
        Case{"{type: ChainedScheduler, schedulers: [{type: ConstantLR}, {type: ExponentialLR, "
             "gamma: 0.5}]}",
             optim::chained_lr({optim::constant_lr(), optim::exponential_lr(0.5)})}));

TEST(SchedulerKeys, WrongOnesAreErrorsWithTheirPlace) {
  const struct {
    const char *yaml, *expected;
  } cases[] = {
      {"{type: StepLR}", "key 'step_size' is missing in s"},
      {"{type: StepLR, step_size: 0}", "s is wrong: step_size must be at least 1, but got 0"},
      {"{type: StepLR, step_size: 1, gama: 1}", "unknown key 'gama' in s"},
      {"{type: MultiStepLR, milestones: [2, 2]}", "s is wrong: milestones must be rising"},
      {"{type: CosineAnnealingLR, t_max: 1}",
       "key 'T_max' is missing in s; is 't_max' (x.yaml:1) a misspelling of it?"},
      {"{type: OneCycleLR, max_lr: 1.0, total_steps: 5, anneal_strategy: sine}",
       "s.anneal_strategy must be 'cos' or 'linear', but got sine"},
      {"{type: SequentialLR, milestones: [1], schedulers: [{type: StepLR, step_size: 0}]}",
       "s.schedulers.0 is wrong: step_size must be at least 1"},
      {"{type: SequentialLR, milestones: [1], schedulers: [{type: StepLR, step_size: 1}]}",
       "s is wrong: there must be one milestone less than schedules"},
      {"{type: ChainedScheduler}", "s is wrong: there must be at least one schedule"},
  };
  for (const auto& c : cases)
    EXPECT_ERROR(build_schedule(c.yaml), UsageError, "[config] x.yaml:1: ", c.expected);
}

}  // namespace halfstep::train
