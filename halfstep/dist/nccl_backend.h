#pragma once
#include "halfstep/dist/launch_environment.h"

#include <chrono>
#include <string>

#include <c10/util/intrusive_ptr.h>

namespace c10d {
class Backend;
class Store;
}  // namespace c10d

namespace halfstep::detail {

/// Why this build has no NCCL; empty where it has.
std::string why_no_nccl();

/// Joins the ranks for exchanges between GPUs; NCCL connects them at the first one, and obeys
/// NCCL_SOCKET_IFNAME by itself. Throws EnvironmentError where there is no NCCL, and, with the
/// interfaces there are, where that variable fits none of them.
c10::intrusive_ptr<c10d::Backend> make_nccl_backend(const c10::intrusive_ptr<c10d::Store>& store,
                                                    const dist::LaunchEnvironment& launch,
                                                    std::chrono::milliseconds timeout);

}  // namespace halfstep::detail
