#include "halfstep/train/hooks/early_stopping_hook.h"

#include "halfstep/core/error.h"
#include "halfstep/train/loop/trainer.h"

#include <cmath>
#include <cstdio>
#include <iostream>

#include <fmt/format.h>

namespace halfstep::train {

EarlyStoppingHook::EarlyStoppingHook(Config& config)
    : monitor_(config.get<std::string>("monitor")),
      min_delta_(config.get<double>("min_delta", 0.1)),
      strict_(config.get<bool>("strict", false)),
      check_finite_(config.get<bool>("check_finite", true)),
      patience_(config.get<int64_t>("patience", 5)) {
  if (config.has("rule")) {
    rule_ = parse_rule(config, "rule", config.get<std::string>("rule"));
  } else {
    const auto guess = guess_rule(monitor_);
    if (!guess)
      config.fail("monitor",
                  "must be a metric whose rule can be guessed (acc…, loss…), or come with rule: "
                  "greater or less");
    rule_ = *guess;
  }
  if (!(min_delta_ >= 0)) config.fail("min_delta", "must be at least 0");
  if (patience_ < 1) config.fail("patience", "must be at least 1 validation");
  if (config.has("stopping_threshold")) threshold_ = config.get<double>("stopping_threshold");
}

void EarlyStoppingHook::before_run(Trainer& trainer) {
  if (stopped_by_.empty() || (stopped_by_ == "patience" && waited_ < patience_)) return;
  fmt::print("early stopping: the run ended by {} before; to go on, {}\n", stopped_by_,
             stopped_by_ == "patience" ? "raise patience" : "take EarlyStoppingHook out");
  std::fflush(stdout);
  trainer.request_stop();
}

void EarlyStoppingHook::after_val_epoch(Trainer& trainer, const Metrics& metrics) {
  if (metrics.empty()) return;
  const auto value = metrics.find(monitor_);
  if (!value) {
    std::string known;
    for (const auto& [name, unused] : metrics) known += (known.empty() ? "" : ", ") + name;
    HALFSTEP_CHECK_USAGE(!strict_, "early stopping", "monitor must be a result of the validation (",
                         known, "), but got '", monitor_, "'; name another, or leave strict out");
    std::cerr << "warning: early stopping looks for '" << monitor_
              << "', which is not among the results of the validation (" << known << ")\n";
    return;
  }
  const auto reason = check(*value);
  if (reason.empty()) return;
  fmt::print("early stopping: {}\n", reason);
  std::fflush(stdout);
  trainer.request_stop();
}

std::string EarlyStoppingHook::check(double value) {
  if (check_finite_ && !std::isfinite(value)) {
    stopped_by_ = "finite";
    return fmt::format("{} = {} is not finite{}", monitor_,
                       std::isnan(value) ? std::abs(value) : value,
                       best_ ? fmt::format("; the best value before was {:.3f}", *best_) : "");
  }
  if (threshold_ && is_better(rule_, value, *threshold_)) {
    stopped_by_ = "threshold";
    best_ = value;
    return fmt::format("{} = {} passed the threshold {}", monitor_, value, *threshold_);
  }
  const double least = rule_ == MetricRule::greater ? min_delta_ : -min_delta_;
  // As in MMEngine a value just as good as needed counts as better.
  if (best_ && is_better(rule_, *best_ + least, value)) {
    if (++waited_ < patience_) return "";
    stopped_by_ = "patience";
    return fmt::format("{} did not improve in the last {} validations; the best value was {:.3f}",
                       monitor_, waited_, *best_);
  }
  best_ = value;
  waited_ = 0;
  return "";
}

nlohmann::json EarlyStoppingHook::state() const {
  nlohmann::json state{{"waited", waited_}, {"stopped_by", stopped_by_}};
  if (best_ && std::isfinite(*best_)) state["best"] = *best_;
  return state;
}

void EarlyStoppingHook::load_state(const nlohmann::json& state) {
  waited_ = state.at("waited").get<int64_t>();
  stopped_by_ = state.at("stopped_by").get<std::string>();
  if (state.contains("best")) best_ = state.at("best").get<double>();
}

}  // namespace halfstep::train
