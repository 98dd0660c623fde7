#include "halfstep/train/loop/policy_settings.h"

#include "halfstep/core/error.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace halfstep::train {

namespace {

constexpr const char* kNoRule = "none";
constexpr const char* kAutocast = "autocast";
constexpr const char* kModules = "modules";

/// Runs `change`; what the library refuses is said with the place in the file.
template <class Change>
void at_place(const Config& config, const std::string& key, const Change& change) try {
  change();
} catch (const UsageError& error) {
  const std::string_view message = error.what();
  // The library's message begins with its own place.
  halfstep::detail::raise<UsageError>("config", config.where(key),
                                      ": autocast: ", message.substr(message.find("] ") + 2));
}

/// In single quotes, where YAML leaves backslashes alone.
std::string in_quotes(const std::string& text) {
  std::string quoted = "'";
  for (const char c : text) quoted += c == '\'' ? "''" : std::string(1, c);
  return quoted + "'";
}

using Changes = std::vector<std::pair<std::string, std::optional<CastRule>>>;

/// A policy's changes with each name once, as a mapping takes it: the last one counts.
Changes changes_by_one_name(const OpPolicy& policy) {
  Changes changes;
  const auto add = [&](const std::string& name, std::optional<CastRule> rule) {
    std::erase_if(changes, [&](const auto& earlier) { return earlier.first == name; });
    changes.emplace_back(name, rule);
  };
  for (const auto& [name, rule] : policy.changes()) {
    const bool of_some_overloads =
        rule == CastRule::float32_set_dtype || rule == CastRule::float32_append_dtype;
    const bool is_again =
        std::any_of(changes.begin(), changes.end(),
                    [&name = name](const auto& earlier) { return earlier.first == name; });
    if (!of_some_overloads || !is_again) {
      add(name, rule);
      continue;
    }
    // Where the op has others, they keep what they were given before.
    for (const auto& [op, its_rule] : OpPolicy().set(name, *rule).rules())
      add(op.find('.') == std::string::npos ? op + ".default" : op, its_rule);
  }
  return changes;
}

}  // namespace

std::optional<OpPolicy> read_policy(Config& optim_wrapper, c10::DeviceType device_type) {
  auto config = optim_wrapper.child_if(kAutocast);
  if (!config) return std::nullopt;
  OpPolicy policy;
  const auto base = config->get<std::string>("policy", "torch");
  at_place(*config, "policy", [&] { policy = OpPolicy::preset(base, device_type); });
  auto ops = config->child_if("ops");
  for (const auto& op : ops ? ops->keys() : std::vector<std::string>()) {
    const auto rule = ops->get<std::string>(op);
    at_place(*ops, op, [&] {
      if (rule == kNoRule)
        policy.remove(op);
      else
        policy.set(op, parse_cast_rule(rule));
    });
  }
  auto modules = config->child_if(kModules);
  for (const auto& path : modules ? modules->keys() : std::vector<std::string>()) {
    const auto rule = modules->get<std::string>(path);
    at_place(*modules, path, [&] { policy.module(path, parse_cast_rule(rule)); });
  }
  return policy;
}

void bind_policy(Config& optim_wrapper, std::optional<OpPolicy>& policy,
                 const torch::nn::Module& model) {
  if (!policy || policy->module_rules().empty()) return;
  const auto config = optim_wrapper.child(kAutocast);
  at_place(config, kModules, [&] { policy->bind(model); });
}

std::string policy_to_yaml(const OpPolicy& policy) {
  std::string text = "{policy: " + policy.base();
  std::string ops;
  const auto changes = changes_by_one_name(policy);
  for (const auto& [op, rule] : changes) {
    // Quoted: "::" in a name, as "mylib::op", is no mapping.
    ops +=
        (ops.empty() ? "" : ", ") + ("\"" + op + "\": ") + (rule ? cast_rule_name(*rule) : kNoRule);
  }
  if (!ops.empty()) text += ", ops: {" + ops + "}";
  std::string modules;
  for (const auto& [path, rule] : policy.module_rules())
    modules += (modules.empty() ? "" : ", ") + in_quotes(path) + ": " + cast_rule_name(rule);
  if (!modules.empty()) text += ", modules: {" + modules + "}";
  return text + "}";
}

}  // namespace halfstep::train
