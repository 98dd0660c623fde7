#pragma once
#include "halfstep/dist/launch_environment.h"

#include <chrono>

#include <c10/util/intrusive_ptr.h>

namespace c10d {
class Store;
}

namespace halfstep::detail {

/// While it lives, c10d does not log what its callers here turn into errors of their own: each
/// failed request to the store, with a stack trace. Where TORCH_CPP_LOG_LEVEL is set, that holds.
/// The last one made must be the first to go; not for two threads at once.
class QuietC10d {
 public:
  QuietC10d();
  ~QuietC10d();
  QuietC10d(const QuietC10d&) = delete;
  QuietC10d& operator=(const QuietC10d&) = delete;

 private:
  int before_;
};

/// Meets the other ranks at master_addr:master_port, where rank 0 keeps a store of keys and values
/// (TCPStore), and waits until all are there. Throws EnvironmentError, within `timeout`, where the
/// port is taken, nobody answers at the address, ranks are missing, or the store is another job's.
c10::intrusive_ptr<c10d::Store> open_store(const dist::LaunchEnvironment& launch,
                                           std::chrono::milliseconds timeout);

/// The same store by a connection of its own, for another thread: a connection serves one request
/// at a time. Requests wait for `timeout` at most.
c10::intrusive_ptr<c10d::Store> second_connection(const dist::LaunchEnvironment& launch,
                                                  std::chrono::milliseconds timeout);

}  // namespace halfstep::detail
