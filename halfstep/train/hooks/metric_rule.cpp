#include "halfstep/train/hooks/metric_rule.h"

#include <algorithm>
#include <cctype>
#include <string_view>

namespace halfstep::train {

std::optional<MetricRule> guess_rule(const std::string& metric) {
  static constexpr std::string_view greater[] = {"acc", "top",   "ar@",  "auc",  "precision",
                                                 "map", "mdice", "miou", "macc", "aacc"};
  static constexpr std::string_view less = "loss";
  static constexpr std::string_view less_too[] = {"perplexity", "bits_per_character"};
  std::string name = metric;
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char letter) { return std::tolower(letter); });
  if (name == less) return MetricRule::less;
  for (const auto& key : greater)
    if (name.find(key) != name.npos) return MetricRule::greater;
  if (name.find(less) != name.npos) return MetricRule::less;
  for (const auto& key : less_too)
    if (name.find(key) != name.npos) return MetricRule::less;
  return std::nullopt;
}

MetricRule parse_rule(Config& config, const char* key, const std::string& name) {
  if (name == "greater") return MetricRule::greater;
  if (name != "less") config.fail(key, "must be greater or less");
  return MetricRule::less;
}

}  // namespace halfstep::train
