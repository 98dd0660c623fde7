#include "halfstep/graph/capture/device_capture.h"

#include <array>

namespace halfstep::detail {

CaptureMaker& capture_maker(c10::DeviceType type) {
  using Makers = std::array<CaptureMaker, size_t(c10::COMPILE_TIME_MAX_DEVICE_TYPES)>;
  static Makers makers = [] {
    Makers all;
    all[size_t(c10::kCUDA)] = cuda_capture_maker();
    return all;
  }();
  return makers[size_t(type)];
}

}  // namespace halfstep::detail
