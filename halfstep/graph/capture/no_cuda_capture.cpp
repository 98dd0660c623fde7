#include "halfstep/graph/capture/device_capture.h"

namespace halfstep::detail {

CaptureMaker cuda_capture_maker() {
  return nullptr;
}

}  // namespace halfstep::detail
