#include "halfstep/train/optim/schedulers.h"

#include "halfstep/core/error.h"
#include "halfstep/optim/one_cycle.h"
#include "halfstep/train/registry/registry.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>

namespace halfstep::train {

namespace {

/// Makes a schedule; what the library refuses is said with the place in the file.
template <class Make>
optim::Schedule at_place(Config& config, const Make& make) try {
  return make();
} catch (const UsageError& error) {
  const std::string_view message = error.what();
  // The library's message begins with its own place.
  if (message.starts_with("[config]")) throw;
  config.fail("", "is wrong: " + std::string(message.substr(message.find("] ") + 2)));
}

optim::OneCycleOptions::Anneal read_anneal(Config& config) {
  const auto name = config.get<std::string>("anneal_strategy", "cos");
  if (name == "cos") return optim::OneCycleOptions::Anneal::cos;
  if (name == "linear") return optim::OneCycleOptions::Anneal::linear;
  config.fail("anneal_strategy", "must be 'cos' or 'linear'");
}

std::vector<optim::Schedule> read_schedules(Config& config) {
  std::vector<optim::Schedule> result;
  for (auto& each : config.children("schedulers")) result.push_back(schedulers().build(each));
  return result;
}

}  // namespace

optim::Schedule make_step_lr(Config& config) {
  const auto step_size = config.get<int64_t>("step_size");
  const auto gamma = config.get<double>("gamma", 0.1);
  return at_place(config, [&] { return optim::step_lr(step_size, gamma); });
}

optim::Schedule make_multi_step_lr(Config& config) {
  const auto milestones = config.get<std::vector<int64_t>>("milestones");
  const auto gamma = config.get<double>("gamma", 0.1);
  return at_place(config, [&] { return optim::multi_step_lr(milestones, gamma); });
}

optim::Schedule make_exponential_lr(Config& config) {
  const auto gamma = config.get<double>("gamma");
  return at_place(config, [&] { return optim::exponential_lr(gamma); });
}

optim::Schedule make_constant_lr(Config& config) {
  const auto factor = config.get<double>("factor", 1.0 / 3);
  const auto total_iters = config.get<int64_t>("total_iters", 5);
  return at_place(config, [&] { return optim::constant_lr(factor, total_iters); });
}

optim::Schedule make_linear_lr(Config& config) {
  const auto start_factor = config.get<double>("start_factor", 1.0 / 3);
  const auto end_factor = config.get<double>("end_factor", 1.0);
  const auto total_iters = config.get<int64_t>("total_iters", 5);
  return at_place(config, [&] { return optim::linear_lr(start_factor, end_factor, total_iters); });
}

optim::Schedule make_polynomial_lr(Config& config) {
  const auto total_iters = config.get<int64_t>("total_iters", 5);
  const auto power = config.get<double>("power", 1.0);
  const auto eta_min = config.get<double>("eta_min", 0.0);
  return at_place(config, [&] { return optim::polynomial_lr(total_iters, power, eta_min); });
}

optim::Schedule make_cosine_annealing_lr(Config& config) {
  const auto t_max = config.get<int64_t>("T_max");
  const auto eta_min = config.get<double>("eta_min", 0.0);
  return at_place(config, [&] { return optim::cosine_annealing_lr(t_max, eta_min); });
}

optim::Schedule make_cosine_annealing_warm_restarts(Config& config) {
  const auto t_0 = config.get<int64_t>("T_0");
  const auto t_mult = config.get<int64_t>("T_mult", 1);
  const auto eta_min = config.get<double>("eta_min", 0.0);
  return at_place(config,
                  [&] { return optim::cosine_annealing_warm_restarts(t_0, t_mult, eta_min); });
}

optim::Schedule make_poly_lr(Config& config) {
  if (!config.has("total_iters"))
    config.fail("end", "must be given for PolyLR, which reaches eta_min there");
  return make_polynomial_lr(config);
}

optim::Schedule make_cosine_restart_lr(Config& config) {
  const auto periods = config.get<std::vector<int64_t>>("periods");
  const auto weights = config.get<std::vector<double>>("restart_weights", {1.0});
  const auto eta_min = config.get<double>("eta_min", 0.0);
  if (periods.empty() || *std::min_element(periods.begin(), periods.end()) < 1)
    config.fail("periods", "must be numbers of at least 1");
  if (weights.size() != periods.size())
    config.fail("restart_weights", "must be one number for each of periods");
  if (eta_min < 0) config.fail("eta_min", "must be at least 0");
  const auto rate = [=](double base, int64_t n) {
    size_t index = 0;
    for (; index + 1 < periods.size() && n >= periods[index]; ++index) n -= periods[index];
    // After the last period the rate is that of its last step.
    const auto step = static_cast<double>(std::min(n, periods[index] - 1));
    const double angle = std::numbers::pi * step / static_cast<double>(periods[index]);
    return eta_min + (base * weights[index] - eta_min) * (1 + std::cos(angle)) / 2;
  };
  return {rate, eta_min};
}

optim::Schedule make_reduce_on_plateau_lr(Config& config) {
  config.fail("type",
              "must be another one within a schedule: ReduceOnPlateauLR follows validations and "
              "stands in param_scheduler itself");
}

optim::Schedule make_one_cycle_lr(Config& config) {
  // MMEngine's has no momentum to cycle.
  const bool mmengine = config.has("eta_max");
  if (mmengine && config.has("max_lr"))
    config.fail("eta_max", "must be left out beside max_lr, which is the same");
  optim::OneCycleOptions options(config.get<double>(mmengine ? "eta_max" : "max_lr"),
                                 config.get<int64_t>("total_steps"));
  if (mmengine) options.cycle_momentum(false);
  options.pct_start(config.get<double>("pct_start", options.pct_start()))
      .anneal_strategy(read_anneal(config))
      .cycle_momentum(config.get<bool>("cycle_momentum", options.cycle_momentum()))
      .base_momentum(config.get<double>("base_momentum", options.base_momentum()))
      .max_momentum(config.get<double>("max_momentum", options.max_momentum()))
      .div_factor(config.get<double>("div_factor", options.div_factor()))
      .final_div_factor(config.get<double>("final_div_factor", options.final_div_factor()))
      .three_phase(config.get<bool>("three_phase", options.three_phase()));
  return at_place(config, [&] { return optim::one_cycle_lr(options); });
}

optim::Schedule make_sequential_lr(Config& config) {
  auto schedules = read_schedules(config);
  const auto milestones = config.get<std::vector<int64_t>>("milestones");
  return at_place(config, [&] { return optim::sequential_lr(std::move(schedules), milestones); });
}

optim::Schedule make_chained_scheduler(Config& config) {
  auto schedules = read_schedules(config);
  return at_place(config, [&] { return optim::chained_lr(std::move(schedules)); });
}

}  // namespace halfstep::train
