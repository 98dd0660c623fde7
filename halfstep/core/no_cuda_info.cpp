#include "halfstep/core/cuda_info.h"
#include "halfstep/core/error.h"

namespace halfstep::detail {

std::string why_no_cuda() {
  return "this halfstep was built without CUDA";
}

std::string cuda_device_name(int index) {
  raise<EnvironmentError>("device", "cuda:", index, " needs CUDA, but ", why_no_cuda());
}

}  // namespace halfstep::detail
