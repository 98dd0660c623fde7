#pragma once
#include <cstdint>

namespace halfstep::detail {

/// Puts the kernels of HalfRehearsal in front of LibTorch's, once for the process.
void register_rehearsal_kernels();

/// Whether an op called now on this thread would be rehearsed: inside a HalfRehearsal, or in the
/// backward of what was computed in one.
bool rehearses_here();

/// How many operations these kernels computed in float32 so far.
int64_t rehearsed_operations();

}  // namespace halfstep::detail
