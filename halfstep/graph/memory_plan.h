#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace halfstep::detail {

/// A piece of memory that a replay takes. Time is counted in pieces taken: this one is number
/// `taken`, and when it was freed `freed` had been taken.
struct MemoryUse {
  size_t bytes = 0;
  int64_t taken = 0;
  int64_t freed = 0;

  bool overlaps(const MemoryUse& other) const { return taken < other.freed && other.taken < freed; }
};

/// Where each piece lies in one block of memory. Two that are used at the same time lie apart.
struct MemoryPlan {
  std::vector<size_t> offsets;
  size_t bytes = 0;
  /// For each piece the earlier ones in whose place it lies, which must be free by then.
  std::vector<std::vector<size_t>> predecessors;

  /// Places the largest first, each at the lowest offset that is free while it is used. Offsets are
  /// multiples of `alignment`. Takes time quadratic in the number of pieces.
  static MemoryPlan of(const std::vector<MemoryUse>& uses, size_t alignment);
};

}  // namespace halfstep::detail
