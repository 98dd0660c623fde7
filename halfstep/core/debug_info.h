#pragma once
#include <memory>

#include <c10/util/ThreadLocalDebugInfo.h>

namespace halfstep::detail {

/// Thread state of ours in c10::ThreadLocalDebugInfo, for as long as this lives. A null `info`
/// leaves the thread as it is.
///
/// LibTorch's profilers keep their state on the same stack and can be switched off only while it is
/// on top. So it is put on top again whenever an entry comes or goes: a profiler may start inside
/// the entry's life and stop after it, or the other way round (c10::DebugInfoGuard would drop it
/// in the first case; LibTorch throws in the second).
///
/// Must end on the thread that made it and before what was made before it; else it says so on
/// standard error, as `where`, and ends the program.
class [[nodiscard]] DebugInfoEntry {
 public:
  DebugInfoEntry(const char* where, c10::DebugInfoKind kind,
                 std::shared_ptr<c10::DebugInfoBase> info);
  ~DebugInfoEntry();
  DebugInfoEntry(const DebugInfoEntry&) = delete;
  DebugInfoEntry& operator=(const DebugInfoEntry&) = delete;

 private:
  const char* where_;
  std::shared_ptr<c10::ThreadLocalDebugInfo> below_, entry_;
};

}  // namespace halfstep::detail
