#pragma once
#include "benchmarks/variants.h"

namespace halfstep::benchmarks {

/// The matrix products of one bfloat16 training step of the workload and nothing else, on random
/// numbers: each linear layer's output, weight gradient and input gradient (not of the first layer,
/// whose input needs none), the six products of an attention, a convolution and its backward. What
/// no faster step can do without, with these kernels. Returns an undefined tensor.
Step products(const Workload& workload, bool channels_last);

}  // namespace halfstep::benchmarks
