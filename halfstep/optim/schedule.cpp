#include "halfstep/optim/schedule.h"

#include "halfstep/core/error.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numbers>

#include <c10/util/ArrayRef.h>

namespace halfstep::optim {

namespace {

void check_count(int64_t count, const char* where, const char* key) {
  HALFSTEP_CHECK_USAGE(count >= 1, where, key, " must be at least 1, but got ", count);
}

void check_at_least_zero(double value, const char* where, const char* key) {
  HALFSTEP_CHECK_USAGE(value >= 0, where, key, " must be at least 0, but got ", value);
}

void check_factor(double value, const char* where, const char* key) {
  HALFSTEP_CHECK_USAGE(value >= 0 && value <= 1, where, key, " must be in [0, 1], but got ", value);
}

void check_milestones(const std::vector<int64_t>& milestones, const char* where) {
  const bool rising = std::adjacent_find(milestones.begin(), milestones.end(),
                                         std::greater_equal<>()) == milestones.end();
  HALFSTEP_CHECK_USAGE(rising && (milestones.empty() || milestones[0] >= 1), where,
                       "milestones must be rising numbers of at least 1, but got ",
                       c10::IntArrayRef(milestones));
}

void check_no_momentum(const std::vector<Schedule>& schedules, const char* where) {
  const bool momentum = std::any_of(schedules.begin(), schedules.end(),
                                    [](const Schedule& each) { return each.has_momentum(); });
  HALFSTEP_CHECK_USAGE(!momentum, where,
                       "the schedules must leave the momentum alone, but one sets it; switch "
                       "cycle_momentum off");
}

double power(double base, int64_t exponent) {
  return std::pow(base, static_cast<double>(exponent));
}

double cosine(double base, double eta_min, int64_t n, int64_t period) {
  const double angle = std::numbers::pi * static_cast<double>(n) / static_cast<double>(period);
  return eta_min + (base - eta_min) * (1 + std::cos(angle)) / 2;
}

}  // namespace

double Schedule::next(double current, double base, int64_t n) const {
  if (n == 0) return base == 0 ? current : current * (rate(base, 0) / base);
  const double before = rate(base, n - 1) - floor_;
  const double now = rate(base, n) - floor_;
  if (before == 0) return current + now;
  return floor_ + (current - floor_) * (now / before);
}

Schedule step_lr(int64_t step_size, double gamma) {
  check_count(step_size, "step_lr", "step_size");
  check_at_least_zero(gamma, "step_lr", "gamma");
  return [=](double base, int64_t n) { return base * power(gamma, n / step_size); };
}

Schedule multi_step_lr(std::vector<int64_t> milestones, double gamma) {
  HALFSTEP_CHECK_USAGE(!milestones.empty(), "multi_step_lr",
                       "milestones must not be empty, but they are");
  check_milestones(milestones, "multi_step_lr");
  check_at_least_zero(gamma, "multi_step_lr", "gamma");
  return [milestones = std::move(milestones), gamma](double base, int64_t n) {
    const auto passed = std::upper_bound(milestones.begin(), milestones.end(), n);
    return base * power(gamma, std::distance(milestones.begin(), passed));
  };
}

Schedule exponential_lr(double gamma) {
  check_at_least_zero(gamma, "exponential_lr", "gamma");
  return [=](double base, int64_t n) { return base * power(gamma, n); };
}

Schedule constant_lr(double factor, int64_t total_iters) {
  check_factor(factor, "constant_lr", "factor");
  check_count(total_iters, "constant_lr", "total_iters");
  return [=](double base, int64_t n) { return n < total_iters ? base * factor : base; };
}

Schedule linear_lr(double start_factor, double end_factor, int64_t total_iters) {
  HALFSTEP_CHECK_USAGE(start_factor > 0 && start_factor <= 1, "linear_lr",
                       "start_factor must be above 0 and at most 1, but got ", start_factor);
  check_factor(end_factor, "linear_lr", "end_factor");
  check_count(total_iters, "linear_lr", "total_iters");
  return [=](double base, int64_t n) {
    const double done =
        static_cast<double>(std::min(n, total_iters)) / static_cast<double>(total_iters);
    return base * (start_factor + (end_factor - start_factor) * done);
  };
}

Schedule polynomial_lr(int64_t total_iters, double power, double eta_min) {
  check_count(total_iters, "polynomial_lr", "total_iters");
  check_at_least_zero(power, "polynomial_lr", "power");
  check_at_least_zero(eta_min, "polynomial_lr", "eta_min");
  auto rate = [=](double base, int64_t n) {
    if (n >= total_iters) return eta_min;
    const double left = 1 - static_cast<double>(n) / static_cast<double>(total_iters);
    return eta_min + (base - eta_min) * std::pow(left, power);
  };
  return {rate, eta_min};
}

Schedule cosine_annealing_lr(int64_t t_max, double eta_min) {
  check_count(t_max, "cosine_annealing_lr", "t_max");
  check_at_least_zero(eta_min, "cosine_annealing_lr", "eta_min");
  return {[=](double base, int64_t n) { return cosine(base, eta_min, n, t_max); }, eta_min};
}

Schedule cosine_annealing_warm_restarts(int64_t t_0, int64_t t_mult, double eta_min) {
  check_count(t_0, "cosine_annealing_warm_restarts", "t_0");
  check_count(t_mult, "cosine_annealing_warm_restarts", "t_mult");
  check_at_least_zero(eta_min, "cosine_annealing_warm_restarts", "eta_min");
  auto rate = [=](double base, int64_t n) {
    int64_t period = t_0;
    if (t_mult == 1) {
      n %= t_0;
    } else {
      for (; n >= period; period *= t_mult) n -= period;
    }
    return cosine(base, eta_min, n, period);
  };
  return {rate, eta_min};
}

Schedule lambda_lr(std::function<double(int64_t n)> factor) {
  return [factor = std::move(factor)](double base, int64_t n) { return base * factor(n); };
}

Schedule sequential_lr(std::vector<Schedule> schedules, std::vector<int64_t> milestones) {
  HALFSTEP_CHECK_USAGE(!schedules.empty() && schedules.size() == milestones.size() + 1,
                       "sequential_lr", "there must be one milestone less than schedules, but got ",
                       schedules.size(), " schedules and ", milestones.size(), " milestones");
  check_milestones(milestones, "sequential_lr");
  check_no_momentum(schedules, "sequential_lr");
  return [schedules = std::move(schedules), milestones = std::move(milestones)](double base,
                                                                                int64_t n) {
    const auto passed = std::upper_bound(milestones.begin(), milestones.end(), n);
    const auto index = static_cast<size_t>(std::distance(milestones.begin(), passed));
    return schedules[index].rate(base, index == 0 ? n : n - milestones[index - 1]);
  };
}

Schedule chained_lr(std::vector<Schedule> schedules) {
  HALFSTEP_CHECK_USAGE(!schedules.empty(), "chained_lr",
                       "there must be at least one schedule, but got none");
  check_no_momentum(schedules, "chained_lr");
  return [schedules = std::move(schedules)](double base, int64_t n) {
    if (base == 0) return 0.0;
    double rate = base;
    for (const auto& each : schedules) rate *= each.rate(base, n) / base;
    return rate;
  };
}

Schedule warmup_lr(int64_t warmup_steps, Schedule schedule) {
  check_count(warmup_steps, "warmup_lr", "warmup_steps");
  auto rise = [warmup_steps](double base, int64_t n) {
    return base * static_cast<double>(n + 1) / static_cast<double>(warmup_steps);
  };
  return sequential_lr({rise, std::move(schedule)}, {warmup_steps});
}

}  // namespace halfstep::optim
