#pragma once
#include "halfstep/dist/launch_environment.h"

#include <chrono>
#include <exception>

#include <c10/util/intrusive_ptr.h>

// c10d's headers take seconds to compile: only the .cpp includes them.
namespace c10d {
class Backend;
class Store;
}  // namespace c10d

namespace halfstep::detail {

/// Connects this rank with all others by Gloo, over TCP. The interface is that of
/// GLOO_SOCKET_IFNAME (several, parted by commas, share the exchanges), else the one whose route
/// leads to master_addr: not, as in Python, the one that the machine's own name belongs to, which
/// on Debian is 127.0.1.1. Throws EnvironmentError that lists the interfaces there are where the
/// variable names another, or where the job is on several machines and only loopback fits, and
/// where ranks don't come within `join_timeout`. An exchange may take `timeout`.
c10::intrusive_ptr<c10d::Backend> make_gloo_backend(const c10::intrusive_ptr<c10d::Store>& store,
                                                    const dist::LaunchEnvironment& launch,
                                                    std::chrono::milliseconds join_timeout,
                                                    std::chrono::milliseconds timeout);

/// Throws what make_gloo_backend would throw about interfaces: before ranks wait for each other.
void check_interfaces(const dist::LaunchEnvironment& launch);

/// Whether Gloo threw it.
bool is_gloo_error(const std::exception& error);

}  // namespace halfstep::detail
