#pragma once
#include <cstdint>

namespace halfstep::detail {

/// Puts the kernels of HalfRehearsal in front of LibTorch's, once for the process.
void register_rehearsal_kernels();

/// How many operations these kernels computed in float32 so far.
int64_t rehearsed_operations();

}  // namespace halfstep::detail
