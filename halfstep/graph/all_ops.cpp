#include "halfstep/graph/all_ops.h"

#include <vector>

#include <ATen/core/dispatch/Dispatcher.h>

namespace halfstep::detail {

void KernelsOfAllOps::register_missing() {
  // Never destroyed: taking kernels away while the process ends helps nobody.
  static auto& handles = *new std::vector<c10::RegistrationHandleRAII>();
  static std::mutex handles_mutex;
  const std::lock_guard lock(mutex_);
  auto& dispatcher = c10::Dispatcher::singleton();
  const auto names = dispatcher.getAllOpNames();
  if (names.size() == seen_.size()) return;
  for (const auto& name : names) {
    if (!seen_.insert(name).second) continue;
    const auto op = dispatcher.findSchema(name);
    if (!op || op->hasKernelForDispatchKey(key_)) continue;
    auto handle = dispatcher.registerImpl(name, key_, make_(), std::nullopt, nullptr, "halfstep");
    const std::lock_guard handles_lock(handles_mutex);
    handles.push_back(std::move(handle));
  }
}

}  // namespace halfstep::detail
