#include "halfstep/train/optim/schedulers.h"

#include "halfstep/core/error.h"
#include "halfstep/optim/one_cycle.h"
#include "halfstep/train/registry/registry.h"

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

optim::Schedule make_one_cycle_lr(Config& config) {
  optim::OneCycleOptions options(config.get<double>("max_lr"), config.get<int64_t>("total_steps"));
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
