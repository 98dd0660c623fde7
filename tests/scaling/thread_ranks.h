#pragma once
#include <functional>

#include <c10/util/intrusive_ptr.h>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

namespace halfstep::testing {

/// Runs `rank` in one thread for each of `count` ranks, with a process group whose backend reduces
/// in memory between the threads, and waits for all. A thread's exception is thrown here. The group
/// is c10d's own: calls go through its dispatched operators.
void run_ranks(
    int count,
    const std::function<void(int rank, const c10::intrusive_ptr<c10d::ProcessGroup>&)>& rank);

/// How many allreduces the last `run_ranks` did, on all ranks together.
int allreduces_of_last_run();

}  // namespace halfstep::testing
