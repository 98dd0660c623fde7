#include "halfstep/graph/memory_plan.h"

#include <algorithm>
#include <numeric>

namespace halfstep::detail {

MemoryPlan MemoryPlan::of(const std::vector<MemoryUse>& uses, size_t alignment) {
  const auto aligned = [&](size_t bytes) {
    return (bytes + alignment - 1) / alignment * alignment;
  };
  MemoryPlan plan;
  plan.offsets.resize(uses.size());
  plan.predecessors.resize(uses.size());
  std::vector<size_t> by_size(uses.size());
  std::iota(by_size.begin(), by_size.end(), 0);
  std::stable_sort(by_size.begin(), by_size.end(),
                   [&](size_t a, size_t b) { return uses[a].bytes > uses[b].bytes; });
  std::vector<size_t> placed;  // by offset
  for (const auto piece : by_size) {
    const auto bytes = aligned(uses[piece].bytes);
    size_t offset = 0;
    for (const auto other : placed) {
      if (!uses[piece].overlaps(uses[other])) continue;
      if (offset + bytes <= plan.offsets[other]) break;
      offset = std::max(offset, plan.offsets[other] + aligned(uses[other].bytes));
    }
    plan.offsets[piece] = offset;
    plan.bytes = std::max(plan.bytes, offset + bytes);
    for (const auto other : placed) {
      const bool apart = offset + bytes <= plan.offsets[other] ||
                         plan.offsets[other] + aligned(uses[other].bytes) <= offset;
      if (apart) continue;
      if (uses[other].taken < uses[piece].taken)
        plan.predecessors[piece].push_back(other);
      else
        plan.predecessors[other].push_back(piece);
    }
    placed.insert(
        std::upper_bound(placed.begin(), placed.end(), piece,
                         [&](size_t a, size_t b) { return plan.offsets[a] < plan.offsets[b]; }),
        piece);
  }
  return plan;
}

}  // namespace halfstep::detail
