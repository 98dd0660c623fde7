#include "halfstep/optim/schedule.h"

#include "halfstep/core/error.h"
#include "halfstep/optim/one_cycle.h"

#include <algorithm>
#include <cmath>
#include <span>

#include <torch/types.h>

#include "tests/optim/golden/schedulers.h"
#include "tests/support/errors.h"
#include "tests/support/tolerance.h"

namespace halfstep::optim {
namespace {

constexpr double base = 0.05;

void expect_values(const std::vector<double>& got, std::span<const double> expected) {
  ASSERT_EQ(got.size(), expected.size());
  testing::expect_close(
      torch::tensor(got, torch::kDouble),
      torch::tensor(std::vector<double>(expected.begin(), expected.end()), torch::kDouble),
      testing::tolerance(torch::kDouble, "update"));
}

std::vector<double> rates(const Schedule& schedule, size_t count) {
  std::vector<double> result;
  for (size_t n = 0; n < count; ++n) result.push_back(schedule.rate(base, static_cast<int64_t>(n)));
  return result;
}

struct Case {
  const char* name;
  Schedule schedule;
  std::span<const double> rates;
  std::span<const double> momenta = {};
};

void PrintTo(const Case& c, std::ostream* out) {
  *out << c.name;
}

class SchedulesOfPython : public ::testing::TestWithParam<Case> {};

}  // namespace

TEST_P(SchedulesOfPython, Agree) {
  const auto& c = GetParam();
  EXPECT_NE(*std::min_element(c.rates.begin(), c.rates.end()),
            *std::max_element(c.rates.begin(), c.rates.end()));
  expect_values(rates(c.schedule, c.rates.size()), c.rates);
  ASSERT_EQ(c.schedule.has_momentum(), !c.momenta.empty());
  std::vector<double> momenta;
  for (size_t n = 0; n < c.momenta.size(); ++n)
    momenta.push_back(c.schedule.momentum(static_cast<int64_t>(n)).value());
  expect_values(momenta, c.momenta);
}

INSTANTIATE_TEST_SUITE_P(
    All, SchedulesOfPython,
    ::testing::Values(
        Case{"step", step_lr(3), golden::step},
        Case{"multi_step", multi_step_lr({1, 4, 10}, 0.5), golden::multi_step},
        Case{"exponential", exponential_lr(0.9), golden::exponential},
        Case{"cosine", cosine_annealing_lr(8, 0.001), golden::cosine},
        Case{"constant", constant_lr(0.25, 4), golden::constant},
        Case{"linear", linear_lr(0.1, 0.9, 6), golden::linear},
        Case{"polynomial", polynomial_lr(10, 2.0), golden::polynomial},
        Case{"restarts", cosine_annealing_warm_restarts(2, 2, 0.001), golden::restarts},
        Case{"restarts_even", cosine_annealing_warm_restarts(5), golden::restarts_even},
        Case{"lambdas", lambda_lr([](int64_t n) { return 1.0 / static_cast<double>(1 + n); }),
             golden::lambdas},
        Case{"sequential",
             sequential_lr({linear_lr(0.2, 1.0, 4), cosine_annealing_lr(5), constant_lr(0.5, 100)},
                           {4, 9}),
             golden::sequential},
        Case{"chained", chained_lr({exponential_lr(0.9), constant_lr(0.5, 3)}), golden::chained},
        Case{"one_cycle", one_cycle_lr(OneCycleOptions(0.5, 13)), golden::one_cycle,
             golden::one_cycle_momentum},
        Case{"one_cycle_linear",
             one_cycle_lr(OneCycleOptions(0.5, 13)
                              .pct_start(0.5)
                              .anneal_strategy(OneCycleOptions::Anneal::linear)
                              .div_factor(10)
                              .final_div_factor(100)),
             golden::one_cycle_linear, golden::one_cycle_linear_momentum},
        Case{"one_cycle_three", one_cycle_lr(OneCycleOptions(0.5, 13).three_phase(true)),
             golden::one_cycle_three, golden::one_cycle_three_momentum}),
    [](const auto& param) { return std::string(param.param.name); });

TEST(Schedules, WarmupRisesToTheRateAndHandsOver) {
  expect_values(rates(warmup_lr(4, exponential_lr(0.5)), 7),
                std::vector{0.0125, 0.025, 0.0375, 0.05, 0.05, 0.025, 0.0125});
}

TEST(Schedules, ALambdaIsOne) {
  const Schedule halves = [](double rate, int64_t n) { return rate / static_cast<double>(n + 1); };
  expect_values(rates(sequential_lr({halves, halves}, {2}), 4),
                std::vector{0.05, 0.025, 0.05, 0.025});
}

TEST(Schedules, AFinishedCycleStaysAtItsLastRate) {
  const auto schedule = one_cycle_lr(OneCycleOptions(0.5, 13));
  EXPECT_DOUBLE_EQ(schedule.rate(base, 1000), schedule.rate(base, 12));
  EXPECT_DOUBLE_EQ(schedule.momentum(1000).value(), 0.95);
}

TEST(Schedules, PhasesWithoutStepsAreNoDivisionByZero) {
  EXPECT_DOUBLE_EQ(one_cycle_lr(OneCycleOptions(0.5, 10).pct_start(0.1)).rate(base, 0), 0.5);
  EXPECT_TRUE(std::isfinite(one_cycle_lr(OneCycleOptions(0.5, 1)).rate(base, 0)));
  EXPECT_DOUBLE_EQ(chained_lr({exponential_lr(0.5)}).rate(0.0, 3), 0.0);
}

TEST(ScheduleErrors, OutOfRange) {
  EXPECT_ERROR(step_lr(0), UsageError, "[step_lr] step_size must be at least 1, but got 0");
  EXPECT_ERROR(step_lr(1, -1), UsageError, "[step_lr] gamma must be at least 0, but got -1");
  EXPECT_ERROR(multi_step_lr({}), UsageError, "[multi_step_lr] milestones must not be empty");
  EXPECT_ERROR(multi_step_lr({3, 3}), UsageError, "must be rising numbers of at least 1, but got",
               "[3, 3]");
  EXPECT_ERROR(multi_step_lr({0, 3}), UsageError, "[0, 3]");
  EXPECT_ERROR(exponential_lr(NAN), UsageError, "[exponential_lr] gamma must be at least 0");
  EXPECT_ERROR(constant_lr(2, 1), UsageError, "[constant_lr] factor must be in [0, 1], but got 2");
  EXPECT_ERROR(constant_lr(1, 0), UsageError, "[constant_lr] total_iters must be at least 1");
  EXPECT_ERROR(linear_lr(0), UsageError, "[linear_lr] start_factor must be above 0");
  EXPECT_ERROR(linear_lr(1, -1), UsageError, "[linear_lr] end_factor must be in [0, 1]");
  EXPECT_ERROR(polynomial_lr(0), UsageError, "[polynomial_lr] total_iters must be at least 1");
  EXPECT_ERROR(polynomial_lr(1, -1), UsageError, "[polynomial_lr] power must be at least 0");
  EXPECT_ERROR(cosine_annealing_lr(0), UsageError, "[cosine_annealing_lr] t_max must be");
  EXPECT_ERROR(cosine_annealing_lr(1, -1), UsageError, "[cosine_annealing_lr] eta_min must be");
  EXPECT_ERROR(cosine_annealing_warm_restarts(0), UsageError, "t_0 must be at least 1");
  EXPECT_ERROR(cosine_annealing_warm_restarts(1, 0), UsageError, "t_mult must be at least 1");
  EXPECT_ERROR(warmup_lr(0, step_lr(1)), UsageError, "[warmup_lr] warmup_steps must be");
  EXPECT_ERROR(chained_lr({}), UsageError, "[chained_lr] there must be at least one schedule");
  EXPECT_ERROR(sequential_lr({step_lr(1)}, {1}), UsageError,
               "one milestone less than schedules, but got 1 schedules and 1 milestones");
  EXPECT_ERROR(sequential_lr({step_lr(1), one_cycle_lr(OneCycleOptions(1, 5))}, {1}), UsageError,
               "[sequential_lr] the schedules must leave the momentum alone", "cycle_momentum");
}

TEST(ScheduleErrors, OneCycleOutOfRange) {
  const auto make = [](const OneCycleOptions& options) { return one_cycle_lr(options); };
  EXPECT_ERROR(make(OneCycleOptions(0, 5)), UsageError, "[one_cycle_lr] max_lr must be above 0");
  EXPECT_ERROR(make(OneCycleOptions(1, 0)), UsageError,
               "total_steps must be at least 1, but got 0");
  EXPECT_ERROR(make(OneCycleOptions(1, 5).pct_start(1.5)), UsageError,
               "pct_start must be in [0, 1]");
  EXPECT_ERROR(make(OneCycleOptions(1, 5).div_factor(0)), UsageError, "div_factor must be above 0");
  EXPECT_ERROR(make(OneCycleOptions(1, 5).final_div_factor(-1)), UsageError,
               "final_div_factor must");
  EXPECT_ERROR(make(OneCycleOptions(1, 5).base_momentum(1)), UsageError,
               "base_momentum must be in");
  EXPECT_ERROR(make(OneCycleOptions(1, 5).max_momentum(-0.1)), UsageError,
               "max_momentum must be in");
}

}  // namespace halfstep::optim
