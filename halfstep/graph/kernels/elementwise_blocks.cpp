#include "halfstep/graph/kernels/elementwise_blocks.h"

#define HWY_DISABLED_TARGETS HWY_SSSE3
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "halfstep/graph/kernels/elementwise_blocks.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.h.
#include "halfstep/graph/kernels/bfloat16_vectors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace halfstep::detail::HWY_NAMESPACE {

template <class Compute>
HWY_INLINE void for_block(const float* a, const float* b, float* to, int64_t size, Numbers numbers,
                          const Compute& compute) {
  const Floats d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  if (numbers == Numbers::float32) {
    for (int64_t i = 0; i < size; i += lanes)
      hn::StoreU(compute(hn::LoadU(d, a + i), hn::LoadU(d, b + i)), d, to + i);
    return;
  }
  const Rounding rounded(numbers == Numbers::flushed_bfloat16);
  for (int64_t i = 0; i < size; i += lanes)
    hn::StoreU(rounded(compute(hn::LoadU(d, a + i), hn::LoadU(d, b + i))), d, to + i);
}

void elementwise_block(ElementwiseKind kind, const float* a, const float* b, float* to,
                       int64_t size, Numbers numbers) {
  if (b == nullptr) b = a;
  const auto zero = hn::Zero(Floats());
  switch (kind) {
    case ElementwiseKind::copy:
      return for_block(a, b, to, size, numbers, [](Vec x, Vec) HWY_ATTR { return x; });
    case ElementwiseKind::add:
      return for_block(a, b, to, size, numbers,
                       [](Vec x, Vec y) HWY_ATTR { return hn::Add(x, y); });
    case ElementwiseKind::multiply:
      return for_block(a, b, to, size, numbers,
                       [](Vec x, Vec y) HWY_ATTR { return hn::Mul(x, y); });
    case ElementwiseKind::relu:
      return for_block(a, b, to, size, numbers,
                       [&](Vec x, Vec) HWY_ATTR { return hn::IfThenZeroElse(hn::Lt(x, zero), x); });
    case ElementwiseKind::mask:
      return for_block(a, b, to, size, numbers, [&](Vec x, Vec y) HWY_ATTR {
        return hn::IfThenZeroElse(hn::Le(y, zero), x);
      });
  }
}

void widen_block(const uint16_t* from, float* to, int64_t size) {
  const Floats d;
  for (int64_t i = 0; i < size; i += static_cast<int64_t>(hn::Lanes(d)))
    hn::StoreU(load_bfloat(from + i), d, to + i);
}

void narrow_block(const float* from, uint16_t* to, int64_t size) {
  const Floats d;
  for (int64_t i = 0; i < size; i += static_cast<int64_t>(hn::Lanes(d)))
    store_bfloat(hn::LoadU(d, from + i), to + i);
}

}  // namespace halfstep::detail::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace halfstep::detail {

HWY_EXPORT(elementwise_block);
HWY_EXPORT(widen_block);
HWY_EXPORT(narrow_block);

void elementwise_block(ElementwiseKind kind, const float* a, const float* b, float* to,
                       int64_t size, Numbers numbers) {
  HWY_DYNAMIC_DISPATCH(elementwise_block)(kind, a, b, to, size, numbers);
}

void widen_block(const uint16_t* from, float* to, int64_t size) {
  HWY_DYNAMIC_DISPATCH(widen_block)(from, to, size);
}

void narrow_block(const float* from, uint16_t* to, int64_t size) {
  HWY_DYNAMIC_DISPATCH(narrow_block)(from, to, size);
}

}  // namespace halfstep::detail
#endif
