#pragma once
#include <string>

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

namespace halfstep {

/// In which 16-bit types a device multiplies by itself; in others it computes, but slowly.
struct LowPrecisionSupport {
  std::string device;  ///< "this CPU", "cuda:0 (NVIDIA H200, compute capability 9.0)"
  bool float16 = false;
  bool bfloat16 = false;

  /// False for other types than float16 and bfloat16.
  bool has(c10::ScalarType dtype) const {
    return (dtype == c10::kHalf && float16) || (dtype == c10::kBFloat16 && bfloat16);
  }
};

/// On the CPU: whether it has AVX-512 or AMX instructions for the type. On CUDA: Tensor Cores for
/// it, which float16 has from compute capability 7.0 on and bfloat16 from 8.0 on (7.5 counts as
/// having them, although the GTX 16 series does not). Does not sync. Throws UsageError for other
/// devices, EnvironmentError for CUDA in a build without it.
LowPrecisionSupport low_precision_support(c10::Device device);

/// How many times as long as in float32 a product of two 256 × 256 matrices takes in `dtype`,
/// measured here and now in some milliseconds, as if outside of any autocast region and rehearsal.
/// Syncs with the device.
double measure_product_cost(c10::Device device, c10::ScalarType dtype);

/// What to tell who wants to compute in `dtype`: "this CPU has no instructions for bfloat16: a
/// product takes 3.1 times as long as in float32 (measured); …". `cost` is measure_product_cost's.
/// Empty where the device has the type.
std::string missing_support_notice(const LowPrecisionSupport& support, c10::ScalarType dtype,
                                   double cost);

/// The same with what is found and measured here; measures only where the device lacks the type.
std::string missing_support_notice(c10::Device device, c10::ScalarType dtype);

}  // namespace halfstep
