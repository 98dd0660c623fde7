#pragma once
#include "halfstep/graph/program.h"

#include <string>
#include <vector>

namespace halfstep::detail {

/// A change of a Program that leaves its results as they are, to the bit.
struct Pass {
  const char* name;
  /// Returns how many calls it took away.
  int64_t (*run)(Program& program);
};

/// All of them, in the order they run.
const std::vector<Pass>& passes();

/// A view that looks like an older value of the same memory is that value: detach(), t() of a t(),
/// the same view taken again.
int64_t reuse_views(Program& program);

/// A call that repeats an earlier one, with nothing it reads written in between, gives its result:
/// the same cast twice. Not where somebody writes into one of the two, or gets it.
int64_t reuse_results(Program& program);

/// Calls whose results nobody uses.
int64_t remove_dead_calls(Program& program);

}  // namespace halfstep::detail
