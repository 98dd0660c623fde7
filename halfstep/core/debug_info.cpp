#include "halfstep/core/debug_info.h"

#include "halfstep/core/error.h"

#include <utility>
#include <vector>

namespace halfstep::detail {

namespace {

using c10::ThreadLocalDebugInfo;

/// Takes LibTorch's profilers off the top of the stack, and puts them back in the end.
class LiftedProfilers {
 public:
  LiftedProfilers() {
    while (ThreadLocalDebugInfo::get(c10::DebugInfoKind::PROFILER_STATE) != nullptr) {
      try {
        states_.push_back(ThreadLocalDebugInfo::_pop(c10::DebugInfoKind::PROFILER_STATE));
      } catch (const c10::Error&) {
        return;  // under somebody else's entry
      }
    }
  }
  ~LiftedProfilers() {
    for (auto state = states_.rbegin(); state != states_.rend(); ++state)
      ThreadLocalDebugInfo::_push(c10::DebugInfoKind::PROFILER_STATE, std::move(*state));
  }
  LiftedProfilers(const LiftedProfilers&) = delete;
  LiftedProfilers& operator=(const LiftedProfilers&) = delete;

 private:
  std::vector<std::shared_ptr<c10::DebugInfoBase>> states_;
};

}  // namespace

DebugInfoEntry::DebugInfoEntry(const char* where, c10::DebugInfoKind kind,
                               std::shared_ptr<c10::DebugInfoBase> info)
    : where_(where) {
  if (!info) return;
  const LiftedProfilers lifted;
  below_ = ThreadLocalDebugInfo::current();
  ThreadLocalDebugInfo::_push(kind, std::move(info));
  entry_ = ThreadLocalDebugInfo::current();
}

DebugInfoEntry::~DebugInfoEntry() {
  if (!entry_) return;
  const LiftedProfilers lifted;
  if (ThreadLocalDebugInfo::current() != entry_)
    die(where_,
        "a guard must end on the thread that made it and before what was made before it, but this "
        "one did not; keep it on the stack");
  ThreadLocalDebugInfo::_forceCurrentDebugInfo(std::move(below_));
}

}  // namespace halfstep::detail
