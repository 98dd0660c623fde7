#include "halfstep/train/optim/schedulers.h"

#include "halfstep/core/error.h"
#include "halfstep/train/registry/registry.h"

#include <iterator>

#include <torch/optim/sgd.h>
#include <torch/types.h>

#include "tests/support/errors.h"
#include "tests/support/tolerance.h"
#include "tests/train/optim/golden/schedulers.h"

namespace halfstep::train {
namespace {

torch::optim::SGD make_optimizer() {
  std::vector<torch::optim::OptimizerParamGroup> groups;
  for (const double rate : {0.05, 0.1})
    groups.emplace_back(std::vector<torch::Tensor>{torch::zeros({1})},
                        std::make_unique<torch::optim::SGDOptions>(rate));
  return torch::optim::SGD(groups, torch::optim::SGDOptions(1.0));
}

double rate(torch::optim::Optimizer& optimizer, size_t group) {
  return optimizer.param_groups().at(group).options().get_lr();
}

std::unique_ptr<Scheduler> build(const std::string& yaml, torch::optim::Optimizer& optimizer) {
  Config config = Config::parse("s: " + yaml, "x.yaml");
  Config child = config.child("s");
  auto scheduler = schedulers().build(child, optimizer);
  config.finish();
  return scheduler;
}

struct Case {
  const char* yaml;
  const double* rates;
  size_t count;
};

class SchedulerRates : public ::testing::TestWithParam<Case> {};

}  // namespace

TEST_P(SchedulerRates, AreThoseOfPython) {
  auto optimizer = make_optimizer();
  auto scheduler = build(GetParam().yaml, optimizer);
  std::vector<double> got{rate(optimizer, 0)};
  while (got.size() < GetParam().count) {
    scheduler->step();
    got.push_back(rate(optimizer, 0));
  }
  const std::vector<double> expected(GetParam().rates, GetParam().rates + GetParam().count);
  EXPECT_NE(expected.front(), expected.back());
  testing::expect_close(torch::tensor(got, torch::kDouble), torch::tensor(expected, torch::kDouble),
                        testing::tolerance(torch::kDouble, "update"));
}

TEST_P(SchedulerRates, FollowFromTheNumberOfEpochs) {
  auto optimizer = make_optimizer();
  auto scheduler = build(GetParam().yaml, optimizer);
  for (int i = 0; i < 5; ++i) scheduler->step();
  auto resumed_optimizer = make_optimizer();
  auto resumed = build(GetParam().yaml, resumed_optimizer);
  resumed->set_steps(5);
  for (size_t group : {0, 1}) EXPECT_EQ(rate(resumed_optimizer, group), rate(optimizer, group));
  EXPECT_NE(rate(optimizer, 0), rate(optimizer, 1));
  EXPECT_EQ(resumed->steps(), 5);
}

INSTANTIATE_TEST_SUITE_P(
    All, SchedulerRates,
    ::testing::Values(Case{"{type: StepLR, step_size: 3}", golden::step, std::size(golden::step)},
                      Case{"{type: MultiStepLR, milestones: [1, 4, 10], gamma: 0.5}",
                           golden::multi_step, std::size(golden::multi_step)},
                      Case{"{type: ExponentialLR, gamma: 0.9}", golden::exponential,
                           std::size(golden::exponential)},
                      Case{"{type: CosineAnnealingLR, T_max: 8, eta_min: 0.001}", golden::cosine,
                           std::size(golden::cosine)}));

TEST(SchedulerKeys, OutOfRangeAreErrors) {
  const struct {
    const char *yaml, *expected;
  } cases[] = {
      {"{type: StepLR}", "key 'step_size' is missing in s"},
      {"{type: StepLR, step_size: 0}", "s.step_size must be at least 1, but got 0"},
      {"{type: StepLR, step_size: 1, gamma: -1}", "s.gamma must be at least 0, but got -1"},
      {"{type: MultiStepLR, milestones: []}",
       "s.milestones must be rising epoch numbers of at least 1, but got []"},
      {"{type: MultiStepLR, milestones: [2, 2]}",
       "s.milestones must be rising epoch numbers of at least 1, but got [2, 2]"},
      {"{type: MultiStepLR, milestones: [0, 2]}",
       "s.milestones must be rising epoch numbers of at least 1, but got [0, 2]"},
      {"{type: ExponentialLR}", "key 'gamma' is missing in s"},
      {"{type: ExponentialLR, gamma: -0.1}", "s.gamma must be at least 0, but got -0.1"},
      {"{type: CosineAnnealingLR, T_max: 0}", "s.T_max must be at least 1, but got 0"},
      {"{type: CosineAnnealingLR, T_max: 1, eta_min: -1}", "s.eta_min must be at least 0"},
      {"{type: CosineAnnealingLR, t_max: 1}",
       "key 'T_max' is missing in s; is 't_max' (x.yaml:1) a misspelling of it?"},
  };
  for (const auto& c : cases) {
    auto optimizer = make_optimizer();
    EXPECT_ERROR(build(c.yaml, optimizer), UsageError, "[config] x.yaml:1: ", c.expected);
  }
}

TEST(SchedulerArguments, OutOfRangeAreErrors) {
  auto optimizer = make_optimizer();
  EXPECT_ERROR(StepLR(optimizer, 0), UsageError, "[StepLR] step_size must be at least 1");
  EXPECT_ERROR(MultiStepLR(optimizer, {3, 2}), UsageError, "[MultiStepLR] milestones must be");
  EXPECT_ERROR(ExponentialLR(optimizer, -1), UsageError, "[ExponentialLR] gamma must be at least");
  EXPECT_ERROR(CosineAnnealingLR(optimizer, 0), UsageError, "[CosineAnnealingLR] T_max must be");
}

}  // namespace halfstep::train
