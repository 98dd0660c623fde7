#include "halfstep/core/cuda_info.h"

#include <map>
#include <mutex>

#include <ATen/cuda/CUDAContext.h>
#include <ATen/ops/ones.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/util/Exception.h>
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

int cuda_major_capability(int index) {
  return at::cuda::getDeviceProperties(static_cast<c10::DeviceIndex>(index))->major;
}

namespace {
bool emulates_bfloat16(c10::DeviceIndex index) {
  try {
    at::ones({1}, at::TensorOptions(c10::Device(c10::kCUDA, index)).dtype(c10::kBFloat16));
    return true;
  } catch (const c10::OutOfMemoryError&) {
    throw;  // says nothing about the device
  } catch (const c10::Error&) {
    return false;
  }
}
}  // namespace

bool current_cuda_device_holds_bfloat16() {
  static std::mutex mutex;
  static std::map<c10::DeviceIndex, bool> known;
  const auto index = c10::cuda::current_device();
  const std::lock_guard lock(mutex);
  const auto found = known.find(index);
  if (found != known.end()) return found->second;
  const bool holds = at::cuda::getDeviceProperties(index)->major >= 8 || emulates_bfloat16(index);
  known.emplace(index, holds);
  return holds;
}

}  // namespace halfstep::detail
