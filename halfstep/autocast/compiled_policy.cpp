#include "halfstep/autocast/compiled_policy.h"

#include "halfstep/autocast/autocast_kernels.h"

#include <algorithm>
#include <mutex>

namespace halfstep::detail {

size_t op_index(const std::string& op) {
  static std::mutex mutex;
  static auto& indices = *new std::map<std::string, size_t>();
  const std::lock_guard lock(mutex);
  return indices.try_emplace(op, indices.size()).first->second;
}

CompiledPolicy::CompiledPolicy(const std::map<std::string, CastRule>& rules,
                               std::vector<std::shared_ptr<const CallRules>> call_rules)
    : call_rules_(std::move(call_rules)) {
  for (const auto& [op, rule] : rules) {
    ops_.push_back(op);
    size_ = std::max(size_, op_index(op) + 1);
  }
  rules_.assign(size_, -1);
  for (const auto& [op, rule] : rules) rules_[op_index(op)] = static_cast<int8_t>(rule);
  calls_ = std::make_unique<std::atomic<int64_t>[]>(size_);
  for (const auto& more : call_rules_) {
    for (auto& op : more->ops()) ops_.push_back(std::move(op));
  }
}

void CompiledPolicy::register_kernels(c10::DeviceType device_type) const {
  const auto bit = uint64_t{1} << static_cast<int>(device_type);
  if ((has_kernels_.load(std::memory_order_acquire) & bit) != 0) return;
  register_autocast_kernels(device_type, ops_);
  has_kernels_.fetch_or(bit, std::memory_order_release);
}

int64_t CompiledPolicy::calls(const std::string& op) const {
  const auto index = op_index(op);
  return index < size_ ? calls_[index].load(std::memory_order_relaxed) : 0;
}

}  // namespace halfstep::detail
