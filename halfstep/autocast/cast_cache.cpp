#include "halfstep/autocast/cast_cache.h"

#include <atomic>

#include <ATen/autocast_mode.h>

namespace halfstep::detail {

namespace {
std::atomic<uint64_t> epoch = 0;
}

void clear_cast_cache() {
  at::autocast::clear_cache();
  ++epoch;
}

uint64_t cast_cache_epoch() {
  return epoch;
}

}  // namespace halfstep::detail
