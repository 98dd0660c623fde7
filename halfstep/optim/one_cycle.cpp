#include "halfstep/optim/one_cycle.h"

#include "halfstep/core/error.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace halfstep::optim {

OneCycleOptions& OneCycleOptions::pct_start(double value) {
  pct_start_ = value;
  return *this;
}
OneCycleOptions& OneCycleOptions::anneal_strategy(Anneal value) {
  anneal_strategy_ = value;
  return *this;
}
OneCycleOptions& OneCycleOptions::cycle_momentum(bool value) {
  cycle_momentum_ = value;
  return *this;
}
OneCycleOptions& OneCycleOptions::base_momentum(double value) {
  base_momentum_ = value;
  return *this;
}
OneCycleOptions& OneCycleOptions::max_momentum(double value) {
  max_momentum_ = value;
  return *this;
}
OneCycleOptions& OneCycleOptions::div_factor(double value) {
  div_factor_ = value;
  return *this;
}
OneCycleOptions& OneCycleOptions::final_div_factor(double value) {
  final_div_factor_ = value;
  return *this;
}
OneCycleOptions& OneCycleOptions::three_phase(bool value) {
  three_phase_ = value;
  return *this;
}

namespace {

constexpr const char* kOneCycleWhere = "one_cycle_lr";

void check_positive(double value, const char* key) {
  HALFSTEP_CHECK_USAGE(value > 0 && std::isfinite(value), kOneCycleWhere, key,
                       " must be above 0 and finite, but got ", value);
}

void check_momentum(double value, const char* key) {
  HALFSTEP_CHECK_USAGE(value >= 0 && value < 1, kOneCycleWhere, key, " must be in [0, 1), but got ",
                       value);
}

void validate(const OneCycleOptions& options) {
  check_positive(options.max_lr(), "max_lr");
  HALFSTEP_CHECK_USAGE(options.total_steps() >= 1, kOneCycleWhere,
                       "total_steps must be at least 1, but got ", options.total_steps());
  HALFSTEP_CHECK_USAGE(options.pct_start() >= 0 && options.pct_start() <= 1, kOneCycleWhere,
                       "pct_start must be in [0, 1], but got ", options.pct_start());
  check_positive(options.div_factor(), "div_factor");
  check_positive(options.final_div_factor(), "final_div_factor");
  if (!options.cycle_momentum()) return;
  check_momentum(options.base_momentum(), "base_momentum");
  check_momentum(options.max_momentum(), "max_momentum");
}

struct Phase {
  double end_step;
  double start_lr, end_lr;
  double start_momentum, end_momentum;
};

std::vector<Phase> phases_of(const OneCycleOptions& options) {
  const double first = options.max_lr() / options.div_factor();
  const double last = first / options.final_div_factor();
  const double high = options.max_momentum();
  const double low = options.base_momentum();
  const auto steps = static_cast<double>(options.total_steps());
  const double top = options.pct_start() * steps - 1;
  if (options.three_phase()) {
    return {{top, first, options.max_lr(), high, low},
            {2 * top, options.max_lr(), first, low, high},
            {steps - 1, first, last, high, high}};
  }
  return {{top, first, options.max_lr(), high, low},
          {steps - 1, options.max_lr(), last, low, high}};
}

/// Where in its phase step n is; empty phases are over at once.
struct Place {
  const Phase* phase;
  double done;
};

Place place_of(const std::vector<Phase>& phases, int64_t n) {
  const auto step = std::min(static_cast<double>(n), phases.back().end_step);
  double start_step = 0;
  for (const auto& phase : phases) {
    if (step <= phase.end_step || &phase == &phases.back()) {
      const double length = phase.end_step - start_step;
      return {&phase, length > 0 ? (step - start_step) / length : 1.0};
    }
    start_step = phase.end_step;
  }
  return {&phases.back(), 1.0};
}

double between(double start, double end, double done, OneCycleOptions::Anneal anneal) {
  if (anneal == OneCycleOptions::Anneal::linear) return (end - start) * done + start;
  return end + (start - end) / 2 * (1 + std::cos(std::numbers::pi * done));
}

}  // namespace

Schedule one_cycle_lr(const OneCycleOptions& options) {
  validate(options);
  const auto phases = phases_of(options);
  const auto anneal = options.anneal_strategy();
  auto rate = [phases, anneal](double /*base*/, int64_t n) {
    const auto [phase, done] = place_of(phases, n);
    return between(phase->start_lr, phase->end_lr, done, anneal);
  };
  if (!options.cycle_momentum()) return rate;
  return {rate, [phases, anneal](int64_t n) {
            const auto [phase, done] = place_of(phases, n);
            return between(phase->start_momentum, phase->end_momentum, done, anneal);
          }};
}

}  // namespace halfstep::optim
