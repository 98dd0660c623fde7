// Vectors of float32 from and to bfloat16 in memory, as LibTorch rounds. Included once per target.
#if defined(HALFSTEP_GRAPH_BFLOAT16_VECTORS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HALFSTEP_GRAPH_BFLOAT16_VECTORS_INL_H_
#undef HALFSTEP_GRAPH_BFLOAT16_VECTORS_INL_H_
#else
#define HALFSTEP_GRAPH_BFLOAT16_VECTORS_INL_H_
#endif

#include <cstdint>
#include <limits>

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace halfstep::detail::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// At most 16: what 32 is a multiple of.
using Floats = hn::CappedTag<float, 16>;
using Vec = hn::Vec<Floats>;

HWY_INLINE Vec load_bfloat(const uint16_t* from) {
  const hn::Rebind<uint32_t, Floats> bits;
  const hn::Rebind<uint16_t, Floats> halves;
  return hn::BitCast(Floats(), hn::ShiftLeft<16>(hn::PromoteTo(bits, hn::LoadU(halves, from))));
}

/// To bfloat16, to nearest even. LibTorch's kernels for CPUs that have an instruction for it round
/// numbers below the least normal one to zero (`flushes`).
class Rounding {
 public:
  explicit Rounding(bool flushes)
      : least_(hn::Set(Floats(), flushes ? std::numeric_limits<float>::min() : 0.0F)) {}

  /// The rounded value, as float32.
  HWY_INLINE Vec operator()(Vec value) const {
    const Floats d;
    const hn::Rebind<uint32_t, Floats> u32;
    const auto bits = hn::BitCast(u32, value);
    const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(u32, 1));
    const auto nearest = hn::Add(bits, hn::Add(odd, hn::Set(u32, 0x7FFF)));
    const auto number = hn::IfThenElse(hn::RebindMask(u32, hn::Eq(value, value)), nearest,
                                       hn::Or(bits, hn::Set(u32, 0x400000)));
    return flushed(hn::BitCast(d, hn::And(number, hn::Set(u32, 0xFFFF0000))));
  }

  /// A value that is a bfloat16 number already.
  HWY_INLINE Vec flushed(Vec value) const {
    return hn::IfThenElse(hn::Lt(hn::Abs(value), least_), hn::CopySign(hn::Zero(Floats()), value),
                          value);
  }

 private:
  Vec least_;
};

/// A value that is a bfloat16 number already.
HWY_INLINE void store_bfloat(Vec value, uint16_t* to) {
  const hn::Rebind<uint32_t, Floats> u32;
  const hn::Rebind<int32_t, Floats> i32;
  const hn::Rebind<uint16_t, Floats> halves;
  const auto upper = hn::BitCast(i32, hn::ShiftRight<16>(hn::BitCast(u32, value)));
  hn::StoreU(hn::DemoteTo(halves, upper), halves, to);
}

}  // namespace halfstep::detail::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per target
