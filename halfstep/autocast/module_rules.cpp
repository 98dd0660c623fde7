#include "halfstep/autocast/module_rules.h"

#include "halfstep/autocast/module_scope.h"
#include "halfstep/autocast/module_tree.h"
#include "halfstep/autocast/op_names.h"
#include "halfstep/core/error.h"
#include "halfstep/core/nearest.h"

#include <algorithm>

namespace halfstep::detail {

namespace {

constexpr const char* kModuleRulesWhere = "OpPolicy";

/// Ops by which layers use their parameters. Those that LibTorch lists have a kernel anyway.
constexpr const char* kLayerOps[] = {
    "linear",        "matmul",        "conv",
    "bilinear",      "embedding",     "embedding_bag",
    "batch_norm",    "instance_norm", "layer_norm",
    "group_norm",    "rms_norm",      "prelu",
    "lstm",          "gru",           "rnn_tanh",
    "rnn_relu",      "lstm_cell",     "gru_cell",
    "rnn_tanh_cell", "rnn_relu_cell", "scaled_dot_product_attention"};

/// Calls `f` with each tensor among the arguments, also in lists, until it returns something.
template <class F>
auto first_of(c10::ArrayRef<c10::IValue> arguments, const F& f)
    -> decltype(f(std::declval<const at::Tensor&>())) {
  for (const auto& argument : arguments) {
    if (argument.isTensor()) {
      if (const auto found = f(argument.toTensor())) return found;
    } else if (argument.isTensorList()) {
      for (const c10::IValue& element : argument.toListRef()) {
        if (const auto found = f(element.toTensor())) return found;
      }
    }
  }
  return std::nullopt;
}

}  // namespace

ModuleRules::ModuleRules(std::shared_ptr<const ModuleTree> tree, const Rules& rules)
    : tree_(std::move(tree)) {
  std::vector<PathPattern> patterns;
  for (const auto& [text, rule] : rules) {
    // "block.1" is that module, and not "block11" beside it.
    patterns.emplace_back(kModuleRulesWhere, text, /*exact=*/tree_->find(text).has_value());
    patterns_.push_back(text);
    rules_.push_back(rule);
  }
  std::vector<bool> used(rules.size());
  for (const auto& path : tree_->paths()) {
    const auto match = match_path(kModuleRulesWhere, path, patterns);
    of_module_.push_back(match ? static_cast<int>(*match) : -1);
    if (match) used[*match] = true;
  }
  for (size_t i = 0; i < used.size(); ++i) {
    if (used[i]) continue;
    const bool any = std::any_of(tree_->paths().begin(), tree_->paths().end(),
                                 [&](const auto& path) { return patterns[i].matches(path); });
    // Every module it matches may have a rule of its own by exact path.
    if (any) continue;
    const auto hint = suggest(patterns[i].literal_part(), tree_->paths());
    raise<UsageError>(kModuleRulesWhere, "a module must be one of the tree's, but got '",
                      patterns_[i], "'; ",
                      hint.empty() ? "see named_modules() for their paths" : hint);
  }
  check_tied_weights();
  calls_ = std::make_unique<std::atomic<int64_t>[]>(rules_.size());
}

void ModuleRules::check_tied_weights() const {
  for (const auto& owners : tree_->tied()) {
    std::optional<size_t> first;
    for (const auto module : owners) {
      if (!rule_of_module(module)) continue;
      HALFSTEP_CHECK_USAGE(
          !first || rules_[*rule_of_module(*first)] == rules_[*rule_of_module(module)],
          kModuleRulesWhere, "the modules of a tied weight must have one rule, but '",
          tree_->paths()[*first], "' has ", cast_rule_name(rules_[*rule_of_module(*first)]),
          " and '", tree_->paths()[module], "' ", cast_rule_name(rules_[*rule_of_module(module)]),
          "; give the rule to one of them, and name the other by a ModuleScope");
      first = module;
    }
  }
}

std::vector<std::string> ModuleRules::ops() const {
  std::vector<std::string> ops;
  for (const auto* name : kLayerOps) {
    for (const auto& op : ops_named(name)) ops.push_back(op_name(op.operator_name()));
  }
  return ops;
}

std::optional<size_t> ModuleRules::rule_of_module(size_t module) const {
  const auto rule = of_module_[module];
  return rule < 0 ? std::nullopt : std::optional(static_cast<size_t>(rule));
}

std::optional<size_t> ModuleRules::rule_of_owner(const at::TensorBase& tensor,
                                                 std::optional<size_t> scope) const {
  for (const auto module : tree_->owners(tensor)) {
    if (scope && !tree_->is_inside(module, *scope)) continue;
    if (const auto rule = rule_of_module(module)) return rule;
  }
  return std::nullopt;
}

std::optional<size_t> ModuleRules::rule_for(c10::ArrayRef<c10::IValue> arguments) const {
  const auto* state = ModuleScopeState::current();
  // Scopes of other trees don't count.
  std::optional<size_t> scope;
  while (state != nullptr && !(scope = tree_->find(*state))) state = state->outer.get();
  const auto of_owner =
      first_of(arguments, [&](const at::Tensor& tensor) { return rule_of_owner(tensor, scope); });
  if (of_owner) return of_owner;
  for (; state != nullptr; state = state->outer.get()) {
    if (const auto module = tree_->find(*state)) {
      if (const auto rule = rule_of_module(*module)) return rule;
    }
  }
  return std::nullopt;
}

std::optional<CastRule> ModuleRules::rule(const c10::OperatorHandle&,
                                          std::optional<CastRule> by_name,
                                          c10::ArrayRef<c10::IValue> arguments) const {
  const auto found = rule_for(arguments);
  if (!found) return by_name;
  calls_[*found].fetch_add(1, std::memory_order_relaxed);
  // What is banned is so because of 16 bits.
  if (by_name == CastRule::banned && rules_[*found] != CastRule::float32) return by_name;
  return rules_[*found];
}

std::vector<int64_t> ModuleRules::calls() const {
  std::vector<int64_t> calls;
  for (size_t i = 0; i < rules_.size(); ++i)
    calls.push_back(calls_[i].load(std::memory_order_relaxed));
  return calls;
}

}  // namespace halfstep::detail
