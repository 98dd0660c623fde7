#pragma once
#include <cstdint>

namespace halfstep::detail {

/// Forgets the casts of weights that autocast keeps for the region. Use it instead of LibTorch's
/// function, so that what is kept beside LibTorch's cache ends with it.
void clear_cast_cache();

/// Changes with each clear.
uint64_t cast_cache_epoch();

}  // namespace halfstep::detail
