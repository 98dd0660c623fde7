#include "halfstep/core/error.h"
#include "halfstep/dist/nccl_backend.h"

#include <torch/csrc/distributed/c10d/Backend.hpp>

namespace halfstep::detail {

std::string why_no_nccl() {
  return "this build of halfstep has no NCCL (it was made without CUDA, or nccl.h was not found)";
}

c10::intrusive_ptr<c10d::Backend> make_nccl_backend(
    const c10::intrusive_ptr<c10d::Store>& /*store*/, const dist::LaunchEnvironment& /*launch*/,
    std::chrono::milliseconds /*timeout*/) {
  raise<EnvironmentError>("ProcessGroup", "backend nccl must be there to be used, but ",
                          why_no_nccl(), "; take gloo, or build it with HALFSTEP_CUDA=ON");
}

}  // namespace halfstep::detail
