#include "halfstep/core/cuda_info.h"

#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/util/StringUtil.h>

namespace halfstep::detail {

std::string why_no_cuda() {
  try {
    return c10::str("the driver reports ", c10::cuda::device_count_ensure_non_zero(),
                    " devices, none of them usable");
  } catch (const std::exception& error) {
    const std::string text = error.what();
    return c10::str("the driver says: ", text.substr(0, text.find('\n')));
  }
}

std::string cuda_device_name(int index) {
  const auto* properties = at::cuda::getDeviceProperties(static_cast<c10::DeviceIndex>(index));
  return c10::str(properties->name, ", compute capability ", properties->major, ".",
                  properties->minor);
}

}  // namespace halfstep::detail
