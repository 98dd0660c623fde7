#include "halfstep/autocast/op_policy.h"

#include "halfstep/autocast/compiled_policy.h"
#include "halfstep/autocast/module_rules.h"
#include "halfstep/autocast/module_tree.h"
#include "halfstep/autocast/op_names.h"
#include "halfstep/core/error.h"

#include <algorithm>
#include <mutex>
#include <ostream>

namespace halfstep {

namespace {

constexpr const char* kOpPolicyWhere = "OpPolicy";

struct OpRule {
  CastRule rule;
  std::string set_as;
};

/// Whether the op has what the rule needs.
bool can_follow(const c10::OperatorHandle& op, CastRule rule) {
  if (rule == CastRule::float32_set_dtype) return detail::dtype_argument(op).has_value();
  if (rule == CastRule::float32_append_dtype) return detail::overload_with_dtype(op).has_value();
  return true;
}

void set_module(detail::ModuleRules::Rules& rules, const std::string& path, CastRule rule) {
  std::erase_if(rules, [&](const auto& other) { return other.first == path; });
  rules.emplace_back(path, rule);
}

/// The name that set() takes for this one overload.
std::string exactly(const std::string& op) {
  return op.find('.') == std::string::npos ? op + ".default" : op;
}

std::string padded(std::string text, size_t width) {
  text.resize(std::max(width, text.size()), ' ');
  return text;
}

}  // namespace

struct OpPolicy::Rules {
  std::string base = "none";
  std::map<std::string, OpRule> of_op = {};
  std::vector<std::pair<std::string, std::optional<CastRule>>> changes = {};
  std::vector<std::shared_ptr<const detail::CallRules>> call_rules = {};
  detail::ModuleRules::Rules modules = {};
  std::shared_ptr<const detail::ModuleTree> tree = nullptr;
  mutable std::mutex mutex = {};
  mutable std::shared_ptr<const detail::CompiledPolicy> compiled = nullptr;
  mutable std::shared_ptr<const detail::ModuleRules> bound = nullptr;  // part of `compiled`

  Rules() = default;
  Rules(const Rules& other)
      : base(other.base),
        of_op(other.of_op),
        changes(other.changes),
        call_rules(other.call_rules),
        modules(other.modules),
        tree(other.tree) {}
};

OpPolicy::OpPolicy() : rules_(std::make_shared<Rules>()) {}

OpPolicy::OpPolicy(std::string base, const std::map<std::string, CastRule>& rules) : OpPolicy() {
  rules_->base = std::move(base);
  for (const auto& [op, rule] : rules) rules_->of_op.emplace(op, OpRule{rule, ""});
}

// Regions may hold what was compiled, and their uses are counted there: it stays as it is.
OpPolicy::Rules& OpPolicy::change() {
  if (rules_.use_count() > 1 || rules_->compiled) rules_ = std::make_shared<Rules>(*rules_);
  return *rules_;
}

OpPolicy& OpPolicy::set(const std::string& op, CastRule rule) {
  const auto name = cast_rule_name(rule);
  auto ops = detail::ops_named(op);
  std::erase_if(ops, [rule](const auto& overload) { return !can_follow(overload, rule); });
  HALFSTEP_CHECK_USAGE(!ops.empty(), "OpPolicy", "an op with rule ", name, " must take ",
                       rule == CastRule::float32_set_dtype ? "an optional dtype"
                                                           : "a dtype in another of its overloads",
                       ", but got '", op, "'; use float32");
  auto& rules = change();
  for (const auto& overload : ops)
    rules.of_op.insert_or_assign(detail::op_name(overload.operator_name()), OpRule{rule, op});
  rules.changes.emplace_back(op, rule);
  return *this;
}

OpPolicy& OpPolicy::remove(const std::string& op) {
  const auto ops = detail::ops_named(op);
  auto& rules = change();
  for (const auto& overload : ops) rules.of_op.erase(detail::op_name(overload.operator_name()));
  rules.changes.emplace_back(op, std::nullopt);
  return *this;
}

OpPolicy& OpPolicy::merge(const OpPolicy& other) {
  const auto theirs = other.rules_;
  auto changed = *this;
  auto& rules = changed.change();
  for (const auto& [op, rule] : theirs->of_op) {
    rules.of_op.insert_or_assign(op, rule);
    rules.changes.emplace_back(exactly(op), rule.rule);
  }
  rules.call_rules.insert(rules.call_rules.end(), theirs->call_rules.begin(),
                          theirs->call_rules.end());
  for (const auto& [path, rule] : theirs->modules) set_module(rules.modules, path, rule);
  if (theirs->tree) rules.tree = theirs->tree;
  changed.check_modules();
  rules_ = changed.rules_;
  return *this;
}

OpPolicy& OpPolicy::module(const std::string& path, CastRule rule) {
  const bool can_be = rule != CastRule::float32_set_dtype &&
                      rule != CastRule::float32_append_dtype && rule != CastRule::banned;
  HALFSTEP_CHECK_USAGE(can_be, kOpPolicyWhere,
                       "a module's rule must be lower_precision, float32, promote, "
                       "promote_or_lower or keep, but '",
                       path, "' got ", cast_rule_name(rule), "; set that for the op itself");
  const detail::PathPattern checked(kOpPolicyWhere, path);
  auto changed = *this;
  set_module(changed.change().modules, path, rule);
  changed.check_modules();
  rules_ = changed.rules_;
  return *this;
}

OpPolicy& OpPolicy::bind(const torch::nn::Module& root) {
  auto changed = *this;
  changed.change().tree = std::make_shared<detail::ModuleTree>(root);
  changed.check_modules();
  rules_ = changed.rules_;
  return *this;
}

void OpPolicy::check_modules() const {
  if (rules_->tree) detail::ModuleRules(rules_->tree, rules_->modules);
}

const std::vector<std::pair<std::string, CastRule>>& OpPolicy::module_rules() const {
  return rules_->modules;
}

OpPolicy& OpPolicy::add_call_rules(std::shared_ptr<const detail::CallRules> more) {
  change().call_rules.push_back(std::move(more));
  return *this;
}

std::optional<CastRule> OpPolicy::rule(const std::string& op) const {
  const auto found = rules_->of_op.find(op);
  return found == rules_->of_op.end() ? std::nullopt : std::optional(found->second.rule);
}

std::vector<std::pair<std::string, CastRule>> OpPolicy::rules() const {
  std::vector<std::pair<std::string, CastRule>> all;
  for (const auto& [op, rule] : rules_->of_op) all.emplace_back(op, rule.rule);
  return all;
}

const std::string& OpPolicy::base() const {
  return rules_->base;
}

const std::vector<std::pair<std::string, std::optional<CastRule>>>& OpPolicy::changes() const {
  return rules_->changes;
}

std::string OpPolicy::table() const {
  size_t widest = 0;
  for (const auto& [op, rule] : rules_->of_op) widest = std::max(widest, op.size());
  std::string text = "op policy from " + rules_->base + ": " +
                     std::to_string(rules_->of_op.size()) + " ops have a rule\n";
  for (const auto& [op, rule] : rules_->of_op) {
    auto line = "  " + padded(op, widest) + "  " + cast_rule_name(rule.rule);
    if (!rule.set_as.empty()) line += "  (set as " + rule.set_as + ")";
    text += line + "\n";
  }
  for (const auto& [path, rule] : rules_->modules)
    text += "  module " + path + "  " + cast_rule_name(rule) + "\n";
  return text;
}

const std::shared_ptr<const detail::CompiledPolicy>& OpPolicy::compiled() const {
  const std::lock_guard lock(rules_->mutex);
  if (!rules_->compiled) {
    std::map<std::string, CastRule> rules;
    for (const auto& [op, rule] : rules_->of_op) rules.emplace(op, rule.rule);
    auto call_rules = rules_->call_rules;
    if (!rules_->modules.empty()) {
      HALFSTEP_CHECK_USAGE(rules_->tree, kOpPolicyWhere,
                           "a policy with rules by module must know the module tree, but '",
                           rules_->modules.front().first,
                           "' has a rule and bind() was not called; call bind(*net)");
      rules_->bound = std::make_shared<detail::ModuleRules>(rules_->tree, rules_->modules);
      call_rules.push_back(rules_->bound);
    }
    rules_->compiled = std::make_shared<detail::CompiledPolicy>(rules, std::move(call_rules));
  }
  return rules_->compiled;
}

std::vector<RuleUse> OpPolicy::uses() const {
  const bool can_run = rules_->modules.empty() || rules_->tree;
  std::vector<RuleUse> all;
  for (const auto& [op, rule] : rules_->of_op)
    all.push_back({op, rule.rule, rule.set_as, can_run ? compiled()->calls(op) : 0});
  return all;
}

std::vector<std::string> OpPolicy::unmatched() const {
  std::map<std::string, int64_t> calls;
  for (const auto& use : uses()) {
    if (!use.set_as.empty()) calls[use.set_as] += use.calls;
  }
  std::vector<std::string> names;
  for (const auto& [name, count] : calls) {
    if (count == 0) names.push_back(name);
  }
  return names;
}

std::vector<std::string> OpPolicy::unmatched_modules() const {
  const auto counts = rules_->tree && compiled() && rules_->bound
                          ? rules_->bound->calls()
                          : std::vector<int64_t>(rules_->modules.size());
  std::vector<std::string> paths;
  for (size_t i = 0; i < counts.size(); ++i) {
    if (counts[i] == 0) paths.push_back(rules_->modules[i].first);
  }
  return paths;
}

std::ostream& operator<<(std::ostream& stream, const OpPolicy& policy) {
  return stream << policy.table();
}

}  // namespace halfstep
