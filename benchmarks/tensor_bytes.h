#pragma once
#include <cstdint>

/// Counts the bytes that CPU tensors, and oneDNN's scratch memory, take from LibTorch's allocator,
/// in all threads together. A library of its own with a C interface, so that the Python worker
/// counts with the same code (ctypes) as the C++ one. While it counts, each allocation costs a
/// little more: count and time separately.
extern "C" {

/// Counts what is allocated from now on, and sets the peak to what is alive of earlier counts.
void tensor_bytes_start();

/// Bytes of the counted tensors that are alive. What was allocated while nothing was counted is not
/// in it, also when it is freed.
int64_t tensor_bytes_now();

/// Sets the peak to what is alive now.
void tensor_bytes_reset_peak();

/// The largest `tensor_bytes_now()` since the start or the last reset.
int64_t tensor_bytes_peak();

/// Allocations are no longer counted, frees of counted ones still are.
void tensor_bytes_stop();
}
