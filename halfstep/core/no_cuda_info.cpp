#include "halfstep/core/cuda_info.h"
#include "halfstep/core/error.h"

namespace halfstep::detail {

std::string why_no_cuda() {
  return "this halfstep was built without CUDA";
}

std::string cuda_device_name(int index) {
  raise<EnvironmentError>("device", "cuda:", index, " needs CUDA, but ", why_no_cuda(),
                          "; use 'cpu' or 'auto', or build with HALFSTEP_CUDA=ON");
}

int cuda_major_capability(int index) {
  cuda_device_name(index);  // throws
  return 0;
}

bool current_cuda_device_holds_bfloat16() {
  raise<EnvironmentError>("device", "bfloat16 on CUDA needs CUDA, but ", why_no_cuda(),
                          "; build with HALFSTEP_CUDA=ON");
}

}  // namespace halfstep::detail
