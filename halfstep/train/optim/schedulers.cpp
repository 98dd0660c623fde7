#include "halfstep/train/optim/schedulers.h"

#include "halfstep/core/error.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numbers>
#include <utility>

namespace halfstep::train {

namespace {

constexpr const char* at_least_one = "must be at least 1";
constexpr const char* at_least_zero = "must be at least 0";
constexpr const char* rising = "must be rising epoch numbers of at least 1";

bool is_rising(const std::vector<int64_t>& milestones) {
  return !milestones.empty() && milestones[0] >= 1 &&
         std::adjacent_find(milestones.begin(), milestones.end(), std::greater_equal<>()) ==
             milestones.end();
}

void check(bool good, const char* where, const char* key, const char* rule) {
  HALFSTEP_CHECK_USAGE(good, where, key, " ", rule);
}

}  // namespace

StepLR::StepLR(torch::optim::Optimizer& optimizer, int64_t step_size, double gamma)
    : Scheduler(optimizer), step_size_(step_size), gamma_(gamma) {
  check(step_size >= 1, "StepLR", "step_size", at_least_one);
  check(gamma >= 0, "StepLR", "gamma", at_least_zero);
}

double StepLR::rate(double base, int64_t steps) const {
  return base * std::pow(gamma_, static_cast<double>(steps / step_size_));
}

MultiStepLR::MultiStepLR(torch::optim::Optimizer& optimizer, std::vector<int64_t> milestones,
                         double gamma)
    : Scheduler(optimizer), milestones_(std::move(milestones)), gamma_(gamma) {
  check(is_rising(milestones_), "MultiStepLR", "milestones", rising);
  check(gamma >= 0, "MultiStepLR", "gamma", at_least_zero);
}

double MultiStepLR::rate(double base, int64_t steps) const {
  const auto passed = std::count_if(milestones_.begin(), milestones_.end(),
                                    [&](int64_t milestone) { return milestone <= steps; });
  return base * std::pow(gamma_, static_cast<double>(passed));
}

ExponentialLR::ExponentialLR(torch::optim::Optimizer& optimizer, double gamma)
    : Scheduler(optimizer), gamma_(gamma) {
  check(gamma >= 0, "ExponentialLR", "gamma", at_least_zero);
}

double ExponentialLR::rate(double base, int64_t steps) const {
  return base * std::pow(gamma_, static_cast<double>(steps));
}

CosineAnnealingLR::CosineAnnealingLR(torch::optim::Optimizer& optimizer, int64_t t_max,
                                     double eta_min)
    : Scheduler(optimizer), t_max_(t_max), eta_min_(eta_min) {
  check(t_max >= 1, "CosineAnnealingLR", "T_max", at_least_one);
  check(eta_min >= 0, "CosineAnnealingLR", "eta_min", at_least_zero);
}

double CosineAnnealingLR::rate(double base, int64_t steps) const {
  const double angle = std::numbers::pi * static_cast<double>(steps) / static_cast<double>(t_max_);
  return eta_min_ + (base - eta_min_) * (1 + std::cos(angle)) / 2;
}

namespace {

double read_gamma(Config& config, double gamma) {
  if (gamma < 0) config.fail("gamma", at_least_zero);
  return gamma;
}

int64_t read_count(Config& config, const std::string& key) {
  const auto count = config.get<int64_t>(key);
  if (count < 1) config.fail(key, at_least_one);
  return count;
}

}  // namespace

SchedulerPtr make_step_lr(Config& config, torch::optim::Optimizer& optimizer) {
  const auto step_size = read_count(config, "step_size");
  const auto gamma = read_gamma(config, config.get<double>("gamma", 0.1));
  return std::make_unique<StepLR>(optimizer, step_size, gamma);
}

SchedulerPtr make_multi_step_lr(Config& config, torch::optim::Optimizer& optimizer) {
  auto milestones = config.get<std::vector<int64_t>>("milestones");
  if (!is_rising(milestones)) config.fail("milestones", rising);
  const auto gamma = read_gamma(config, config.get<double>("gamma", 0.1));
  return std::make_unique<MultiStepLR>(optimizer, std::move(milestones), gamma);
}

SchedulerPtr make_exponential_lr(Config& config, torch::optim::Optimizer& optimizer) {
  const auto gamma = read_gamma(config, config.get<double>("gamma"));
  return std::make_unique<ExponentialLR>(optimizer, gamma);
}

SchedulerPtr make_cosine_annealing_lr(Config& config, torch::optim::Optimizer& optimizer) {
  const auto t_max = read_count(config, "T_max");
  const auto eta_min = config.get<double>("eta_min", 0.0);
  if (eta_min < 0) config.fail("eta_min", at_least_zero);
  return std::make_unique<CosineAnnealingLR>(optimizer, t_max, eta_min);
}

}  // namespace halfstep::train
