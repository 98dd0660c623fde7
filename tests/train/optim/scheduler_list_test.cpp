#include "halfstep/train/optim/scheduler_list.h"

#include "halfstep/core/error.h"
#include "halfstep/optim/one_cycle.h"

#include <cmath>
#include <numbers>

#include <torch/optim/sgd.h>
#include <torch/types.h>

#include "tests/support/errors.h"
#include <gtest/gtest.h>

namespace halfstep::train {
namespace {

constexpr double kBase = 0.1;

torch::optim::SGD make_sgd(double lr = kBase) {
  return torch::optim::SGD(std::vector<torch::Tensor>{torch::zeros({1}, torch::requires_grad())},
                           torch::optim::SGDOptions(lr));
}

double rate_of(const torch::optim::Optimizer& optimizer) {
  return optimizer.param_groups().front().options().get_lr();
}

std::vector<ScheduleEntry> read_list(const std::string& list, bool run_by_epoch = true) {
  auto config = Config::parse("param_scheduler: " + list, "x.yaml");
  auto result = read_schedulers(config, run_by_epoch);
  config.finish();
  return result;
}

// MMEngine's own recurrences (mmengine/optim/scheduler/param_scheduler.py), each over its interval.
struct Reference {
  double lr = kBase;
  void linear(int64_t n, int64_t begin, int64_t end, double start_factor) {
    if (n < begin || n >= end) return;
    const auto step = static_cast<double>(n - begin);
    const auto total = static_cast<double>(end - begin - 1);
    lr *= step == 0
              ? start_factor
              : 1 + (1 - start_factor) / (total * start_factor + (step - 1) * (1 - start_factor));
  }
  void cosine(int64_t n, int64_t begin, int64_t end, double eta_min) {
    if (n < begin || n >= end || n == begin) return;
    const auto step = static_cast<double>(n - begin);
    const auto t_max = static_cast<double>(end - begin);
    const double pi = std::numbers::pi;
    lr = (1 + std::cos(pi * step / t_max)) / (1 + std::cos(pi * (step - 1) / t_max)) *
             (lr - eta_min) +
         eta_min;
  }
  void multi_step(int64_t n, int64_t begin, int64_t milestone, double gamma) {
    if (n - begin == milestone) lr *= gamma;
  }
  void poly(int64_t n, int64_t begin, int64_t end, double eta_min, double power) {
    if (n <= begin || n >= end) return;
    const auto left = static_cast<double>(end - begin - 1 - (n - begin) + 1);
    lr = (lr - eta_min) * std::pow(1 - 1 / left, power) + eta_min;
  }
};

TEST(SchedulerList, WarmUpThenCosineAsInMMEngine) {
  auto optimizer = make_sgd();
  SchedulerList list(
      optimizer,
      read_list("[{type: LinearLR, start_factor: 0.001, by_epoch: false, begin: 0, end: 50}, "
                "{type: CosineAnnealingLR, by_epoch: false, begin: 50, end: 150, eta_min: "
                "1.0e-4}]"));
  Reference reference;
  for (int64_t n = 0; n < 200; ++n) {
    if (n > 0) list.step_iter();
    reference.linear(n, 0, 50, 0.001);
    reference.cosine(n, 50, 150, 1e-4);
    ASSERT_NEAR(rate_of(optimizer), reference.lr, 1e-12) << n;
    if (n == 49) {
      EXPECT_NEAR(rate_of(optimizer), kBase, 1e-12) << "the warm-up ends at the full rate";
    }
  }
  EXPECT_EQ(list.counts(), (std::vector<int64_t>{199, 199}));
}

TEST(SchedulerList, OverlappingIntervalsMultiply) {
  auto optimizer = make_sgd();
  SchedulerList list(
      optimizer,
      read_list("[{type: LinearLR, start_factor: 0.1, by_epoch: false, begin: 0, end: 20}, "
                "{type: MultiStepLR, by_epoch: false, milestones: [10, 30], gamma: 0.5}, "
                "{type: PolynomialLR, by_epoch: false, begin: 25, end: 40, eta_min: "
                "0.001, power: 2.0}]"));
  Reference reference;
  for (int64_t n = 0; n < 60; ++n) {
    if (n > 0) list.step_iter();
    reference.linear(n, 0, 20, 0.1);
    reference.multi_step(n, 0, 10, 0.5);
    reference.multi_step(n, 0, 30, 0.5);
    reference.poly(n, 25, 40, 0.001, 2);
    ASSERT_NEAR(rate_of(optimizer), reference.lr, 1e-12) << n;
  }
}

TEST(SchedulerList, EpochsAndStepsTakeTurns) {
  auto optimizer = make_sgd();
  SchedulerList list(optimizer,
                     read_list("[{type: LinearLR, start_factor: 0.5, by_epoch: false, end: 5}, "
                               "{type: ExponentialLR, gamma: 0.1}]"));
  EXPECT_DOUBLE_EQ(rate_of(optimizer), kBase * 0.5);
  for (int i = 0; i < 8; ++i) list.step_iter();
  EXPECT_NEAR(rate_of(optimizer), kBase, 1e-15);
  list.step_epoch();
  EXPECT_NEAR(rate_of(optimizer), kBase * 0.1, 1e-15);
  EXPECT_EQ(list.counts(), (std::vector<int64_t>{8, 1}));
}

// A rate of nothing above its floor has no ratio to go on with.
TEST(SchedulerList, ACosineThatRisesAgain) {
  auto optimizer = make_sgd();
  SchedulerList list(optimizer, read_list("[{type: CosineAnnealingLR, T_max: 5, begin: 2}]"));
  const auto alone = optim::cosine_annealing_lr(5);
  for (int64_t n = 1; n < 20; ++n) {
    list.step_epoch();
    EXPECT_NEAR(rate_of(optimizer), alone.rate(kBase, std::max<int64_t>(n - 2, 0)), 1e-12) << n;
  }
}

TEST(SchedulerList, OneThatActsThroughoutIsAFunctionOfItsCount) {
  auto optimizer = make_sgd();
  SchedulerList list(optimizer, read_list("[{type: CosineAnnealingLR, T_max: 7}]"));
  const auto alone = optim::cosine_annealing_lr(7);
  for (int64_t n = 1; n < 20; ++n) {
    list.step_epoch();
    EXPECT_EQ(rate_of(optimizer), alone.rate(kBase, n));
  }
  auto other = make_sgd();
  SchedulerList resumed(other, read_list("[{type: CosineAnnealingLR, T_max: 7}]"));
  resumed.set_counts(list.counts());
  EXPECT_EQ(rate_of(other), rate_of(optimizer));
  EXPECT_ERROR(resumed.set_counts({1, 2}), EnvironmentError, "for each of 1 schedules", "[1, 2]");
  EXPECT_ERROR(resumed.set_counts({-1}), EnvironmentError, "at least 0");
}

TEST(SchedulerList, AlsoMovesARateThatNoGroupHas) {
  for (const char* list :
       {"[{type: ExponentialLR, gamma: 0.5}]",
        "[{type: LinearLR, start_factor: 0.1, by_epoch: false, end: 3}, {type: ExponentialLR, "
        "gamma: 0.5}]"}) {
    auto optimizer = make_sgd(0.1);
    torch::optim::SGDOptions also(2);
    SchedulerList schedulers(optimizer, read_list(list), &also);
    for (int i = 0; i < 4; ++i) {
      EXPECT_DOUBLE_EQ(also.lr(), 20 * rate_of(optimizer)) << list << i;
      schedulers.step_iter();
      schedulers.step_epoch();
    }
    EXPECT_DOUBLE_EQ(also.lr(), 2.0 / 16) << list;
  }
}

TEST(SchedulerList, WithoutSchedulesRatesStay) {
  auto optimizer = make_sgd();
  SchedulerList list(optimizer, read_list("[]"));
  list.step_epoch();
  list.step_iter();
  EXPECT_EQ(rate_of(optimizer), kBase);
  EXPECT_TRUE(list.empty());
}

TEST(SchedulerList, Errors) {
  EXPECT_ERROR(read_list("[{type: StepLR, step_size: 1, begin: 3, end: 3}]"), UsageError,
               "[config] x.yaml:1: param_scheduler.0.end must be larger than begin, but got 3");
  EXPECT_ERROR(read_list("[{type: StepLR, step_size: 1, begin: -1}]"), UsageError,
               "begin must be at least 0");
  EXPECT_ERROR(read_list("[{type: StepLR, step_size: 1}]", false), UsageError,
               "by_epoch must be false where train_cfg counts iterations");
  EXPECT_ERROR(
      read_list("[{type: OneCycleLR, max_lr: 1, total_steps: 9}, {type: StepLR, step_size: 1}]"),
      UsageError, "type must be another one among several", "OneCycleLR");
  auto optimizer = make_sgd();
  EXPECT_ERROR(SchedulerList(optimizer, {{optim::step_lr(1), true, 5, 5}}), UsageError,
               "[SchedulerList] end must be larger than begin", "begin 5 and end 5");
  EXPECT_ERROR(SchedulerList(optimizer, {{optim::one_cycle_lr({1.0, 9}), true, 0, 5}}), UsageError,
               "must be alone");
}

}  // namespace
}  // namespace halfstep::train
