// What halfstep asks of a CUDA device, in place of no_cuda_info.cpp's answers.
#include "halfstep/core/cuda_info.h"

namespace halfstep::detail {

std::string why_no_cuda() {
  return "the device is pretended";
}

std::string cuda_device_name(int /*index*/) {
  return "pretended GPU";
}

int cuda_major_capability(int /*index*/) {
  return 9;
}

bool current_cuda_device_holds_bfloat16() {
  return true;
}

}  // namespace halfstep::detail
