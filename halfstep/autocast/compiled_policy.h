#pragma once
#include "halfstep/autocast/call_rules.h"

#include <atomic>
#include <map>
#include <memory>

#include <c10/core/DeviceType.h>

namespace halfstep::detail {

/// A small number for each op name that rules or kernels speak of, the same for the life of the
/// process. Safe from any thread.
size_t op_index(const std::string& op);

/// An OpPolicy as the kernels read it. Never changes but for its counters; safe from any thread.
class CompiledPolicy {
 public:
  CompiledPolicy(const std::map<std::string, CastRule>& rules,
                 std::vector<std::shared_ptr<const CallRules>> call_rules);

  /// The rule of one call; counts it.
  std::optional<CastRule> rule(size_t index, const c10::OperatorHandle& op,
                               c10::ArrayRef<c10::IValue> arguments) const {
    std::optional<CastRule> rule;
    if (index < size_ && rules_[index] >= 0) {
      calls_[index].fetch_add(1, std::memory_order_relaxed);
      rule = static_cast<CastRule>(rules_[index]);
    }
    for (const auto& rules : call_rules_) rule = rules->rule(op, rule, arguments);
    return rule;
  }

  /// How often the op's own rule was asked for.
  int64_t calls(const std::string& op) const;

  /// Puts kernels before autocast's for the policy's ops, at the first call for a device type.
  void register_kernels(c10::DeviceType device_type) const;

 private:
  std::vector<std::string> ops_;  // that need a kernel
  size_t size_ = 0;
  std::vector<int8_t> rules_;  // by op_index; -1 is none
  std::unique_ptr<std::atomic<int64_t>[]> calls_;
  std::vector<std::shared_ptr<const CallRules>> call_rules_;
  mutable std::atomic<uint64_t> has_kernels_ = 0;  // a bit for each device type
};

}  // namespace halfstep::detail
