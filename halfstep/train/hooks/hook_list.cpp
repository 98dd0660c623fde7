#include "halfstep/train/hooks/hook_list.h"

#include "halfstep/core/error.h"

#include <algorithm>
#include <utility>

namespace halfstep::train {

void HookList::add(std::unique_ptr<Hook> hook, std::optional<int64_t> priority) {
  HALFSTEP_CHECK_USAGE(hook != nullptr, "HookList::add",
                       "a hook must be an object, but got a null pointer; make it with "
                       "std::make_unique");
  const int64_t place = priority.value_or(hook->priority());
  HALFSTEP_CHECK_USAGE(place >= priority::highest && place <= priority::lowest, "HookList::add",
                       "a priority must be from 0 to 100, but got ", place,
                       "; see halfstep/train/hooks/priority.h for their names");
  const auto behind =
      std::upper_bound(entries_.begin(), entries_.end(), place,
                       [](int64_t value, const Entry& entry) { return value < entry.priority; });
  entries_.insert(behind, Entry{place, std::move(hook)});
}

}  // namespace halfstep::train
