#pragma once
#include <cstdint>

namespace halfstep::testing {

/// Gives a process without CUDA a pretended device cuda:0: its memory is the host's, and its ops
/// are the CPU's, run at once. Call it first in main: LibTorch asks for CUDA once. Ops that there
/// is no CPU kernel of (cuDNN's, flash attention's, those of fused LSTM and GRU cells) are missing.
void pretend_cuda();

/// How often the host waited for the device: item(), a copy that isn't non_blocking to or from
/// pinned memory, an op whose result's shape depends on data, a device, stream or event waited for.
int64_t pretended_syncs();

/// How many ops the device was given; views and allocations are none, a graph's launch is one.
int64_t pretended_launches();

}  // namespace halfstep::testing
