#pragma once
#include <cstdint>

namespace halfstep::detail {

/// What a step of an element-wise run computes of its operands a and b, in float32.
enum class ElementwiseKind : int64_t {
  copy,      ///< a
  add,       ///< a + b
  multiply,  ///< a · b
  relu,      ///< a, 0 where it is negative
  mask,      ///< a, 0 where b is not positive: threshold_backward at 0
};
constexpr int64_t kElementwiseKinds = 5;

/// The result's numbers: as computed, or rounded to bfloat16's, subnormal ones to zero or not.
enum class Numbers { float32, bfloat16, flushed_bfloat16 };

/// Sizes of blocks are padded to a multiple of this many elements, which all memory must have.
constexpr int64_t kBlockPadding = 16;

/// to[i] of a[i] and b[i], for a padded size. `to` may be a or b. On the calling thread.
void elementwise_block(ElementwiseKind kind, const float* a, const float* b, float* to,
                       int64_t size, Numbers numbers);

/// bfloat16 to float32, and numbers that are bfloat16's back, for a padded size.
void widen_block(const uint16_t* from, float* to, int64_t size);
void narrow_block(const float* from, uint16_t* to, int64_t size);

}  // namespace halfstep::detail
