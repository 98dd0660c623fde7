#pragma once
#include "halfstep/train/hooks/hook.h"

#include <memory>
#include <optional>
#include <vector>

namespace halfstep::train {

/// The hooks of a run in the order in which they are called.
///
///   hooks.add(std::make_unique<LoggerHook>(config));              // at its own priority
///   hooks.add(std::make_unique<StopAtAccuracy>(), priority::low);
class HookList {
 public:
  /// Puts a hook behind those of its priority (its own where none is given) and those before it.
  /// Throws UsageError for a null pointer and for a priority that is not from 0 to 100.
  void add(std::unique_ptr<Hook> hook, std::optional<int64_t> priority = std::nullopt);

  /// Calls `f` with each, in order.
  template <class F>
  void for_each(const F& f) const {
    for (const auto& entry : entries_) f(*entry.hook);
  }

  size_t size() const { return entries_.size(); }

 private:
  struct Entry {
    int64_t priority;
    std::unique_ptr<Hook> hook;
  };
  std::vector<Entry> entries_;
};

}  // namespace halfstep::train
