#include "halfstep/train/hooks/best_checkpoint.h"

#include "halfstep/core/error.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

namespace halfstep::train {

namespace {

std::vector<std::string> read_names(Config& config, const char* key) {
  if (!config.has(key)) return {};
  if (config.is_text(key)) return {config.get<std::string>(key)};
  return config.get<std::vector<std::string>>(key);
}

std::string file_name(std::string metric, int64_t step) {
  std::replace(metric.begin(), metric.end(), '/', '_');
  return fmt::format("best_{}_step_{:08}.safetensors", metric, step);
}

}  // namespace

BestCheckpoint::BestCheckpoint(Config& config) {
  const auto metrics = read_names(config, "save_best");
  const auto rules = read_names(config, "rule");
  if (!rules.empty() && rules.size() != 1 && rules.size() != metrics.size())
    config.fail("rule", "must be one rule, or one for each metric of save_best");
  for (size_t i = 0; i < metrics.size(); ++i) {
    const auto& metric = metrics[i];
    if (std::count(metrics.begin(), metrics.end(), metric) > 1)
      config.fail("save_best", "must name each metric once");
    auto_ = auto_ || metric == "auto";
    if (auto_ && metrics.size() > 1) config.fail("save_best", "must be auto alone, or without it");
    std::optional<MetricRule> rule;
    if (!rules.empty())
      rule = parse_rule(config, "rule", rules.size() == 1 ? rules[0] : rules[i]);
    else if (!auto_ && !(rule = guess_rule(metric)))
      config.fail("save_best",
                  "must be a metric whose rule can be guessed (acc…, loss…), or come with rule: "
                  "greater or less");
    entries_.push_back({metric, rule, std::nullopt, ""});
  }
}

std::vector<BestCheckpoint::Change> BestCheckpoint::update(const Metrics& metrics, int64_t step) {
  std::vector<Change> changes;
  for (auto& entry : entries_) {
    if (auto_ && entry.metric == "auto") entry.metric = metrics.begin()->first;
    if (!entry.rule) entry.rule = guess_rule(entry.metric);
    HALFSTEP_CHECK_USAGE(entry.rule.has_value(), "checkpoint",
                         "the rule of save_best must be known, but '", entry.metric,
                         "' does not tell it; give rule: greater or less");
    const auto score = metrics.find(entry.metric);
    std::string known;
    for (const auto& [name, value] : metrics) known += (known.empty() ? "" : ", ") + name;
    HALFSTEP_CHECK_USAGE(score.has_value(), "checkpoint",
                         "save_best must name a result of the validation (", known, "), but got '",
                         entry.metric, "'; choose one of those, or auto");
    // NaN is never better, and no score that a checkpoint's JSON can't hold.
    if (!std::isfinite(*score) || (entry.score && !is_better(*entry.rule, *score, *entry.score)))
      continue;
    auto file = file_name(entry.metric, step);
    changes.push_back({entry.metric, *score, file, entry.file == file ? "" : entry.file});
    entry.score = score;
    entry.file = std::move(file);
  }
  return changes;
}

nlohmann::json BestCheckpoint::state() const {
  auto state = nlohmann::json::object();
  for (const auto& entry : entries_)
    if (entry.score) state[entry.metric] = {{"score", *entry.score}, {"file", entry.file}};
  return state;
}

void BestCheckpoint::load_state(const nlohmann::json& state) {
  for (auto& entry : entries_) {
    if (auto_ && !state.empty()) entry.metric = state.begin().key();
    const auto saved = state.find(entry.metric);
    if (saved == state.end()) continue;
    entry.score = saved->at("score").get<double>();
    entry.file = saved->at("file").get<std::string>();
  }
}

}  // namespace halfstep::train
