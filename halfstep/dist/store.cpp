#include "halfstep/dist/store.h"

#include "halfstep/core/error.h"

#include <cstdlib>
#include <string>

#include <c10/util/Logging.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

namespace halfstep::detail {

namespace {

constexpr const char* kStoreWhere = "ProcessGroup";

c10d::TCPStoreOptions store_options(const dist::LaunchEnvironment& launch,
                                    std::chrono::milliseconds timeout) {
  c10d::TCPStoreOptions options;
  options.port = launch.master_port;
  options.timeout = timeout;
  options.numWorkers = launch.world_size;
  options.waitWorkers = false;  // done below, where a missing one can be named
  return options;
}

c10::intrusive_ptr<c10d::Store> connect(const dist::LaunchEnvironment& launch,
                                        const c10d::TCPStoreOptions& options) {
  c10::intrusive_ptr<c10d::Store> store =
      c10::make_intrusive<c10d::TCPStore>(launch.master_addr, options);
  if (!launch.store_is_served) return store;
  // The launcher's store outlives a job that it starts anew, and so do that job's keys.
  const char* attempt = std::getenv("TORCHELASTIC_RESTART_COUNT");
  return c10::make_intrusive<c10d::PrefixStore>(
      c10::str("halfstep/attempt_", attempt == nullptr ? "0" : attempt), store);
}

// Two processes with one number would make a job of wrong sums: a RANK given twice, or a second job
// that came to the store of a first one.
void check_alone(c10d::Store& store, const dist::LaunchEnvironment& launch) {
  HALFSTEP_CHECK_ENVIRONMENT(store.add(c10::str("halfstep/joined/", launch.rank), 1) == 1,
                             kStoreWhere,
                             "each rank must be one process, but another one has joined as rank ",
                             launch.rank, " at ", launch.master_addr, ":", launch.master_port,
                             "; give each process its own RANK, and each job its own MASTER_PORT");
  const auto size = std::to_string(launch.world_size);
  const auto agreed = store.compareSet("halfstep/world_size", "", size);
  HALFSTEP_CHECK_ENVIRONMENT(agreed == size, kStoreWhere, "all ranks must be of one job, but rank ",
                             launch.rank, " was started for ", size, " ranks and others at ",
                             launch.master_addr, ":", launch.master_port, " for ", agreed,
                             "; give all the same WORLD_SIZE, and each job its own MASTER_PORT");
}

void wait_for_all(c10d::Store& store, const dist::LaunchEnvironment& launch,
                  std::chrono::milliseconds timeout) {
  std::vector<std::string> keys;
  keys.reserve(static_cast<size_t>(launch.world_size));
  for (int rank = 0; rank < launch.world_size; ++rank)
    keys.push_back(c10::str("halfstep/joined/", rank));
  try {
    store.wait(keys, timeout);
    return;
  } catch (const c10::Error&) {
    // Looked into below.
  }
  std::string missing;
  int count = 0;
  for (int rank = 0; rank < launch.world_size; ++rank) {
    if (store.check({keys[static_cast<size_t>(rank)]})) continue;
    if (++count <= 8) missing += c10::str(count == 1 ? "" : ", ", rank);
  }
  raise<EnvironmentError>(kStoreWhere, "all ", launch.world_size, " ranks must join within ",
                          static_cast<double>(timeout.count()) / 1000, " s, but ",
                          count == 1 ? "rank " : "ranks ", missing, count > 8 ? ", …" : "",
                          " did not; look at their own messages, and whether each reaches ",
                          launch.master_addr, ":", launch.master_port);
}

}  // namespace

QuietC10d::QuietC10d() : before_(FLAGS_caffe2_log_level) {
  constexpr int fatal_only = 3;
  if (std::getenv("TORCH_CPP_LOG_LEVEL") == nullptr) FLAGS_caffe2_log_level = fatal_only;
}

QuietC10d::~QuietC10d() {
  FLAGS_caffe2_log_level = before_;
}

c10::intrusive_ptr<c10d::Store> open_store(const dist::LaunchEnvironment& launch,
                                           std::chrono::milliseconds timeout) {
  auto options = store_options(launch, timeout);
  options.isServer = launch.rank == 0 && !launch.store_is_served;
  c10::intrusive_ptr<c10d::Store> store;
  try {
    store = connect(launch, options);
  } catch (const c10::Error& error) {
    const std::string why = error.what_without_backtrace();
    HALFSTEP_CHECK_ENVIRONMENT(why.find("EADDRINUSE") == why.npos, kStoreWhere,
                               "rank 0 must listen on port ", launch.master_port,
                               ", but another program does; choose a free MASTER_PORT");
    raise<EnvironmentError>(kStoreWhere, "rank ", launch.rank, " must reach rank 0 at ",
                            launch.master_addr, ":", launch.master_port, ", but does not within ",
                            static_cast<double>(timeout.count()) / 1000, " s (", why,
                            "); check MASTER_ADDR, MASTER_PORT and that rank 0 runs");
  }
  try {
    check_alone(*store, launch);
    wait_for_all(*store, launch, timeout);
  } catch (const c10::Error& error) {
    raise<EnvironmentError>(kStoreWhere, "rank 0 must stay until all have joined, but at ",
                            launch.master_addr, ":", launch.master_port, " it went away (",
                            error.what_without_backtrace(), "); look at its own message");
  }
  return store;
}

c10::intrusive_ptr<c10d::Store> second_connection(const dist::LaunchEnvironment& launch,
                                                  std::chrono::milliseconds timeout) {
  return connect(launch, store_options(launch, timeout));
}

}  // namespace halfstep::detail
