// Schedules of MMEngine's that PyTorch has not, and its convert_to_iter_based.
#include "halfstep/core/error.h"
#include "halfstep/train/optim/iter_based.h"
#include "halfstep/train/optim/plateau.h"
#include "halfstep/train/optim/scheduler_list.h"

#include <cmath>
#include <numbers>

#include <torch/optim/adam.h>
#include <torch/types.h>

#include "tests/support/errors.h"
#include <gtest/gtest.h>

namespace halfstep::train {
namespace {

constexpr double base = 0.1;

torch::optim::Adam make_optimizer() {
  return torch::optim::Adam(std::vector<torch::Tensor>{torch::zeros({1}, torch::requires_grad())},
                            torch::optim::AdamOptions(base));
}

double rate(const torch::optim::Optimizer& optimizer) {
  return optimizer.param_groups().front().options().get_lr();
}

Config parse(const std::string& list) {
  return Config::parse("param_scheduler: " + list, "x.yaml");
}

std::vector<ScheduleEntry> read(const std::string& list, bool run_by_epoch = true) {
  auto config = parse(list);
  auto result = read_schedulers(config, run_by_epoch);
  config.finish();
  return result;
}

/// The rates of n = 0, 1, …
std::vector<double> rates(const std::string& list, int64_t count) {
  auto optimizer = make_optimizer();
  SchedulerList schedulers(optimizer, read(list));
  std::vector<double> result{rate(optimizer)};
  for (int64_t n = 1; n < count; ++n) {
    schedulers.step_epoch();
    schedulers.step_iter();
    result.push_back(rate(optimizer));
  }
  return result;
}

// MMEngine's recurrence of CosineRestartParamScheduler.
TEST(MMEngineSchedules, CosineRestart) {
  const double eta_min = 0.01;
  const std::vector<int64_t> periods{4, 6}, starts{0, 4};
  const std::vector<double> weights{1, 0.5};
  const std::string entry =
      "type: CosineRestartLR, periods: [4, 6], restart_weights: [1, 0.5], eta_min: 0.01";
  const auto alone = rates("[{" + entry + "}]", 14);
  const auto among = rates("[{" + entry + "}, {type: ConstantLR, factor: 1.0}]", 14);
  double lr = base;
  for (int64_t n = 0; n < 14; ++n) {
    if (n < 10) {
      const size_t index = n < 4 ? 0 : 1;
      const auto step = static_cast<double>(n - starts[index]);
      const auto period = static_cast<double>(periods[index]);
      const double pi = std::numbers::pi;
      lr = step == 0 ? base * weights[index]
                     : (1 + std::cos(pi * step / period)) /
                               (1 + std::cos(pi * (step - 1) / period)) * (lr - eta_min) +
                           eta_min;
    }
    EXPECT_NEAR(alone.at(static_cast<size_t>(n)), lr, 1e-12) << n;
    EXPECT_NEAR(among.at(static_cast<size_t>(n)), lr, 1e-12) << n;
  }
}

TEST(MMEngineSchedules, PolyIsPolynomialUnderItsName) {
  EXPECT_EQ(rates("[{type: PolyLR, power: 0.9, eta_min: 0.001, end: 9}]", 12),
            rates("[{type: PolynomialLR, power: 0.9, eta_min: 0.001, end: 9}]", 12));
  EXPECT_ERROR(read("[{type: PolyLR}]"), UsageError, "end must be given for PolyLR");
}

TEST(MMEngineSchedules, OneCycleWithoutMomentum) {
  auto optimizer = make_optimizer();
  SchedulerList schedulers(optimizer, read("[{type: OneCycleLR, eta_max: 0.5, total_steps: 9}]"));
  const auto beta = [&] {
    return std::get<0>(
        static_cast<torch::optim::AdamOptions&>(optimizer.param_groups()[0].options()).betas());
  };
  EXPECT_NEAR(rate(optimizer), 0.5 / 25, 1e-12);
  EXPECT_EQ(beta(), 0.9);
  schedulers.step_epoch();
  EXPECT_EQ(beta(), 0.9);
  EXPECT_ERROR(read("[{type: OneCycleLR, eta_max: 0.5, max_lr: 1, total_steps: 9}]"), UsageError,
               "eta_max must be left out beside max_lr");
}

// The rates after each validation, as MMEngine's ReduceOnPlateauParamScheduler makes them.
TEST(MMEngineSchedules, ReduceOnPlateau) {
  struct Case {
    const char* keys;
    std::vector<double> results;
    std::vector<double> expected;
  };
  const Case cases[] = {
      {"patience: 1", {1, 1, 1, 0.5, 1, 1, 1, 1}, {1, 1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.001}},
      // Better by less than the threshold is not better.
      {"patience: 0, threshold: 0.1", {1, 0.95, 0.89, 0.85}, {1, 0.1, 0.1, 0.01}},
      {"patience: 0, threshold: 0.1, threshold_rule: abs",
       {1, 0.95, 0.85, 0.76},
       {1, 0.1, 0.1, 0.01}},
      {"patience: 0, rule: greater, monitor: acc", {0.5, 0.6, 0.6, NAN}, {1, 1, 0.1, 0.01}},
      // After a cut, two validations don't count.
      {"patience: 0, cooldown: 2", {1, 2, 2, 2, 2}, {1, 0.1, 0.1, 0.1, 0.01}},
      {"patience: 0, min_value: 0.03, factor: 0.5", {1, 2, 2, 2}, {1, 0.5, 0.3, 0.3}},
      {"patience: 0, eps: 0.06", {1, 2, 2}, {1, 0.1, 0.1}},
      {"patience: 0, begin: 2, end: 4", {1, 2, 2, 2, 2}, {1, 1, 1, 0.1, 0.1}},
  };
  for (const auto& [keys, results, expected] : cases) {
    SCOPED_TRACE(keys);
    auto optimizer = make_optimizer();
    SchedulerList schedulers(optimizer,
                             read(std::string("[{type: ReduceOnPlateauLR, ") + keys + "}]", false));
    for (size_t i = 0; i < results.size(); ++i) {
      // A resumed run goes on with the rate and this state.
      SchedulerList resumed(optimizer,
                            read(std::string("[{type: ReduceOnPlateauLR, ") + keys + "}]", false));
      resumed.set_counts(schedulers.counts());
      resumed.load_plateaus(schedulers.plateaus());
      schedulers = resumed;
      schedulers.step_validation({{"loss", results[i]}, {"acc", results[i]}});
      EXPECT_NEAR(rate(optimizer), base * expected[i], 1e-12) << i;
      schedulers.step_epoch();
      schedulers.step_iter();
      EXPECT_NEAR(rate(optimizer), base * expected[i], 1e-12) << i;
    }
  }
}

TEST(MMEngineSchedules, ReduceOnPlateauAfterAWarmUp) {
  auto optimizer = make_optimizer();
  SchedulerList schedulers(
      optimizer, read("[{type: LinearLR, start_factor: 0.5, by_epoch: false, end: 3}, {type: "
                      "ReduceOnPlateauLR, patience: 0}]"));
  EXPECT_DOUBLE_EQ(rate(optimizer), base / 2);
  for (int i = 0; i < 3; ++i) schedulers.step_iter();
  schedulers.step_validation({{"loss", 1}});
  EXPECT_DOUBLE_EQ(rate(optimizer), base);
  schedulers.step_validation({{"loss", 1}});
  EXPECT_DOUBLE_EQ(rate(optimizer), base / 10);
}

TEST(MMEngineSchedules, ReduceOnPlateauIsChecked) {
  const auto fails = [](const std::string& keys, const char* rule) {
    EXPECT_ERROR(read("[{type: ReduceOnPlateauLR, " + keys + "}]"), UsageError, rule);
  };
  fails("factor: 1.0", "factor must be at least 0 and below 1");
  fails("patience: -1", "patience must be at least 0 validations");
  fails("threshold: -1", "threshold must be at least 0");
  fails("threshold_rule: both", "threshold_rule must be rel or abs");
  fails("rule: more", "rule must be greater or less");
  fails("by_epoch: false", "by_epoch must be true, or left out");
  EXPECT_ERROR(read("[{type: SequentialLR, milestones: [], schedulers: [{type: "
                    "ReduceOnPlateauLR}]}]"),
               UsageError, "stands in param_scheduler itself");
  auto optimizer = make_optimizer();
  SchedulerList schedulers(optimizer, read("[{type: ReduceOnPlateauLR, monitor: mAP}]"));
  EXPECT_ERROR(schedulers.step_validation({{"acc", 1}, {"loss", 1}}), UsageError,
               "[ReduceOnPlateauLR] monitor must be a result of the validation (acc, loss), but "
               "got 'mAP'");
}

std::string converted(const std::string& list, int64_t batches = 100, int64_t counts = 1,
                      bool several = false) {
  auto config = parse(list);
  convert_to_iter_based(config, batches, counts, several);
  return config.to_json().at("param_scheduler").dump();
}

TEST(MMEngineSchedules, ConvertToIterBased) {
  const std::string convert = ", convert_to_iter_based: true}]";
  EXPECT_EQ(converted("[{type: LinearLR, begin: 1, end: 3" + convert),
            R"([{"begin":100,"by_epoch":false,"end":300,"type":"LinearLR"}])");
  EXPECT_EQ(converted("[{type: MultiStepLR, milestones: [3, 5]" + convert, 25, 2),
            R"([{"by_epoch":false,"milestones":[37,62],"type":"MultiStepLR"}])");
  EXPECT_EQ(converted("[{type: CosineAnnealingLR, T_max: 9, by_epoch: true" + convert),
            R"([{"T_max":900,"by_epoch":false,"type":"CosineAnnealingLR"}])");
  // What is not asked for stays.
  EXPECT_EQ(converted("[{type: StepLR, step_size: 3, convert_to_iter_based: false}]"),
            R"([{"convert_to_iter_based":false,"step_size":3,"type":"StepLR"}])");
  auto config = parse("[{type: CosineAnnealingLR, end: 2" + convert);
  convert_to_iter_based(config, 10, 1, false);
  auto optimizer = make_optimizer();
  SchedulerList schedulers(optimizer, read_schedulers(config, true));
  config.finish();
  for (int i = 0; i < 10; ++i) schedulers.step_iter();
  EXPECT_NEAR(rate(optimizer), base / 2, 1e-12) << "half of two epochs of 10 steps";
  EXPECT_ERROR(converted("[{type: StepLR, step_size: 1, by_epoch: false" + convert), UsageError,
               "must be left out beside by_epoch: false");
  EXPECT_ERROR(converted("[{type: SequentialLR, milestones: [1]" + convert), UsageError,
               "must be left out for SequentialLR", "write by_epoch: false and numbers of steps");
  EXPECT_ERROR(converted("[{type: LinearLR" + convert), UsageError, "end must be given beside");
  EXPECT_ERROR(converted("[{type: StepLR, step_size: 1" + convert, 10, 1, true), UsageError,
               "must be left out with several optimizers");
}

}  // namespace
}  // namespace halfstep::train
