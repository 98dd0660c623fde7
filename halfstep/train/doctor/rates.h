#pragma once
#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

namespace halfstep::train {

/// How fast a device computes in a dtype, in operations a second (a multiplication and an addition
/// are two).
struct Rates {
  double product = 0;      ///< of square matrices: 1024 on the CPU, 8192 on a GPU
  double convolution = 0;  ///< 3 x 3, 64 channels, images of 56 x 56: 8 on the CPU, 64 on a GPU
};

/// Measures both, the best of five, or of what fits into a second. float16 on
/// the CPU is rehearsed (HalfRehearsal), as training does it. Outside of any autocast region. Syncs
/// with the device.
Rates measure_rates(c10::Device device, c10::ScalarType dtype);

/// How many bytes a second a device reads and writes, together, when it copies 256 MiB; the best of
/// five. Syncs with the device.
double measure_memory_rate(c10::Device device);

}  // namespace halfstep::train
