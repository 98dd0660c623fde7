#include "halfstep/train/optim/plateau.h"

#include "halfstep/core/error.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace halfstep::train {

Plateau::Plateau(Config& config)
    : monitor_(config.get<std::string>("monitor", "loss")),
      rule_(parse_rule(config, "rule", config.get<std::string>("rule", "less"))),
      factor_(config.get<double>("factor", 0.1)),
      patience_(config.get<int64_t>("patience", 10)),
      threshold_(config.get<double>("threshold", 1e-4)),
      cooldown_(config.get<int64_t>("cooldown", 0)),
      min_value_(config.get<double>("min_value", 0.0)),
      eps_(config.get<double>("eps", 1e-8)) {
  const auto threshold_rule = config.get<std::string>("threshold_rule", "rel");
  if (threshold_rule != "rel" && threshold_rule != "abs")
    config.fail("threshold_rule", "must be rel or abs");
  relative_ = threshold_rule == "rel";
  if (!(factor_ >= 0 && factor_ < 1)) config.fail("factor", "must be at least 0 and below 1");
  for (const auto& [key, count] : {std::pair("patience", patience_), {"cooldown", cooldown_}})
    if (count < 0) config.fail(key, "must be at least 0 validations");
  for (const auto& [key, value] :
       {std::pair("threshold", threshold_), {"min_value", min_value_}, {"eps", eps_}})
    if (!(value >= 0)) config.fail(key, "must be at least 0");
}

bool Plateau::is_better(double value) const {
  if (std::isnan(value)) return false;
  if (!best_) return true;
  const double margin = relative_ ? *best_ * threshold_ : threshold_;
  return rule_ == MetricRule::less ? value < *best_ - margin : value > *best_ + margin;
}

bool Plateau::update(const Metrics& metrics) {
  const auto value = metrics.find(monitor_);
  std::string known;
  for (const auto& [name, unused] : metrics) known += (known.empty() ? "" : ", ") + name;
  HALFSTEP_CHECK_USAGE(value.has_value(), "ReduceOnPlateauLR",
                       "monitor must be a result of the validation (", known, "), but got '",
                       monitor_, "'; choose one of those");
  if (is_better(*value)) {
    best_ = value;
    waited_ = 0;
  } else {
    ++waited_;
  }
  if (cooling_ > 0) {
    --cooling_;
    waited_ = 0;
  }
  if (waited_ <= patience_) return false;
  cooling_ = cooldown_;
  waited_ = 0;
  return true;
}

double Plateau::reduced(double rate) const {
  const double less = std::max(rate * factor_, min_value_);
  return rate - less > eps_ ? less : rate;
}

nlohmann::json Plateau::state() const {
  nlohmann::json state{{"waited", waited_}, {"cooling", cooling_}};
  // JSON has no infinity, and a best result that is one stays so whatever comes.
  if (best_ && std::isfinite(*best_)) state["best"] = *best_;
  return state;
}

void Plateau::load_state(const nlohmann::json& state) {
  state.at("waited").get_to(waited_);
  state.at("cooling").get_to(cooling_);
  best_.reset();
  if (state.contains("best")) best_ = state.at("best").get<double>();
}

}  // namespace halfstep::train
