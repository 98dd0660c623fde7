#pragma once
#include "halfstep/dist/process_group.h"

namespace halfstep::testing {

/// Options for tests: short enough that a fault is seen soon, long enough for a busy machine.
inline dist::ProcessGroupOptions quick(const dist::LaunchEnvironment& launch) {
  return dist::ProcessGroupOptions(launch)
      .backend(dist::Backend::gloo)
      .timeout(std::chrono::seconds(40))
      .join_timeout(std::chrono::seconds(40));
}

}  // namespace halfstep::testing
