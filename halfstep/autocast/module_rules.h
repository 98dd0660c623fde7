#pragma once
#include "halfstep/autocast/call_rules.h"
#include "halfstep/core/path_patterns.h"

#include <atomic>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace halfstep::detail {

class ModuleTree;

/// An OpPolicy's rules by module, resolved for one tree. A call belongs to the module that owns one
/// of its tensors, else to the innermost ModuleScope; an owner outside of the scope does not count
/// (a tied weight used elsewhere). Modules without a rule leave the call to the next scope around,
/// and at last to the op's own rule. Never changes but for its counters; safe from any thread.
class ModuleRules final : public CallRules {
 public:
  using Rules = std::vector<std::pair<std::string, CastRule>>;

  /// Throws UsageError where a pattern matches no module, a module matches two, or the modules of a
  /// tied weight have different rules.
  ModuleRules(std::shared_ptr<const ModuleTree> tree, const Rules& rules);

  std::vector<std::string> ops() const override;
  std::optional<CastRule> rule(const c10::OperatorHandle& op, std::optional<CastRule> by_name,
                               c10::ArrayRef<c10::IValue> arguments) const override;

  /// How often each rule decided, in the order given.
  std::vector<int64_t> calls() const;

 private:
  std::optional<size_t> rule_for(c10::ArrayRef<c10::IValue> arguments) const;
  std::optional<size_t> rule_of_owner(const at::TensorBase& tensor,
                                      std::optional<size_t> scope) const;
  std::optional<size_t> rule_of_module(size_t module) const;
  void check_tied_weights() const;

  std::shared_ptr<const ModuleTree> tree_;
  std::vector<std::string> patterns_;
  std::vector<CastRule> rules_;
  std::vector<int> of_module_;  // index into rules_, -1: none
  std::unique_ptr<std::atomic<int64_t>[]> calls_;
};

}  // namespace halfstep::detail
