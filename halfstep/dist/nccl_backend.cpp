#include "halfstep/dist/nccl_backend.h"

#include "halfstep/core/error.h"
#include "halfstep/dist/network_interfaces.h"

#include <cstdlib>

#include <torch/csrc/distributed/c10d/Backend.hpp>

// What the wheel was built with; without it the header is empty.
#define USE_C10D_NCCL
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

namespace halfstep::detail {

std::string why_no_nccl() {
  return "";
}

c10::intrusive_ptr<c10d::Backend> make_nccl_backend(const c10::intrusive_ptr<c10d::Store>& store,
                                                    const dist::LaunchEnvironment& launch,
                                                    std::chrono::milliseconds timeout) {
  if (const char* names = std::getenv("NCCL_SOCKET_IFNAME"); names != nullptr) {
    const auto interfaces = dist::list_network_interfaces();
    HALFSTEP_CHECK_ENVIRONMENT(!dist::fitting_nccl(names, interfaces).empty(), "ProcessGroup",
                               "NCCL_SOCKET_IFNAME must fit an interface that is up, but '", names,
                               "' fits none; this machine has ", dist::describe(interfaces));
  }
  auto options = c10d::ProcessGroupNCCL::Options::create();
  options->timeout = timeout;
  return c10::make_intrusive<c10d::ProcessGroupNCCL>(store, launch.rank, launch.world_size,
                                                     options);
}

}  // namespace halfstep::detail
