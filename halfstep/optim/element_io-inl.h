// Reads and writes vectors of float32 from and to memory of any Element. Included once per target.
#if defined(HALFSTEP_OPTIM_ELEMENT_IO_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HALFSTEP_OPTIM_ELEMENT_IO_INL_H_
#undef HALFSTEP_OPTIM_ELEMENT_IO_INL_H_
#else
#define HALFSTEP_OPTIM_ELEMENT_IO_INL_H_
#endif

#include "halfstep/optim/kernel_span.h"

#include <cstring>

#include <c10/util/Half.h>

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace halfstep::optim::detail::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using Floats = hn::ScalableTag<float>;
using Vec = hn::Vec<Floats>;

// Highway's conversions for CPUs without float16 instructions truncate and don't know inf.
#undef HALFSTEP_NATIVE_FLOAT16
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL
#define HALFSTEP_NATIVE_FLOAT16 1
#else
#define HALFSTEP_NATIVE_FLOAT16 0
#endif

HWY_INLINE Vec load_half(Floats d, const std::uint16_t* from) {
#if HALFSTEP_NATIVE_FLOAT16
  const hn::Rebind<hwy::float16_t, Floats> d16;
  return hn::PromoteTo(d, hn::LoadU(d16, reinterpret_cast<const hwy::float16_t*>(from)));
#else
  HWY_ALIGN float wide[hn::MaxLanes(d)];
  for (size_t i = 0; i < hn::Lanes(d); ++i) wide[i] = c10::detail::fp16_ieee_to_fp32_value(from[i]);
  return hn::Load(d, wide);
#endif
}

HWY_INLINE void store_half(Floats d, Vec value, std::uint16_t* to) {
#if HALFSTEP_NATIVE_FLOAT16
  const hn::Rebind<hwy::float16_t, Floats> d16;
  hn::StoreU(hn::DemoteTo(d16, value), d16, reinterpret_cast<hwy::float16_t*>(to));
#else
  HWY_ALIGN float wide[hn::MaxLanes(d)];
  hn::Store(value, d, wide);
  for (size_t i = 0; i < hn::Lanes(d); ++i) to[i] = c10::detail::fp16_ieee_from_fp32_value(wide[i]);
#endif
}

HWY_INLINE Vec load_bfloat(Floats d, const std::uint16_t* from) {
  const hn::Rebind<std::uint16_t, Floats> d16;
  const hn::Rebind<std::uint32_t, Floats> d32;
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(d32, hn::LoadU(d16, from))));
}

// To nearest, ties to even, as LibTorch rounds.
HWY_INLINE void store_bfloat(Floats, Vec value, std::uint16_t* to) {
  const hn::Rebind<std::uint16_t, Floats> d16;
  const hn::Rebind<std::uint32_t, Floats> d32;
  const hn::Rebind<std::int32_t, Floats> i32;
  const auto bits = hn::BitCast(d32, value);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(d32, 1));
  const auto rounded = hn::ShiftRight<16>(hn::Add(bits, hn::Add(odd, hn::Set(d32, 0x7FFF))));
  const auto kept = hn::IfThenElse(hn::RebindMask(d32, hn::Eq(value, value)), rounded,
                                   hn::Set(d32, 0x7FC0));  // else a NaN could carry into the sign
  hn::StoreU(hn::DemoteTo(d16, hn::BitCast(i32, kept)), d16, to);
}

HWY_INLINE Vec load_split(Floats d, const std::uint16_t* upper, const std::int16_t* remainder) {
  const hn::Rebind<std::uint16_t, Floats> u16;
  const hn::Rebind<std::int16_t, Floats> i16;
  const hn::Rebind<std::uint32_t, Floats> u32;
  const hn::Rebind<std::int32_t, Floats> i32;
  const auto high = hn::ShiftLeft<16>(hn::PromoteTo(u32, hn::LoadU(u16, upper)));
  const auto low = hn::BitCast(u32, hn::PromoteTo(i32, hn::LoadU(i16, remainder)));
  return hn::BitCast(d, hn::Add(high, low));
}

// To nearest, from the middle away from zero: so that what remains fits into 16 bits.
HWY_INLINE void store_split(Floats, Vec value, std::uint16_t* upper, std::int16_t* remainder) {
  const hn::Rebind<std::uint16_t, Floats> u16;
  const hn::Rebind<std::int16_t, Floats> i16;
  const hn::Rebind<std::uint32_t, Floats> u32;
  const hn::Rebind<std::int32_t, Floats> i32;
  const auto number = hn::RebindMask(u32, hn::Eq(value, value));
  const auto bits = hn::BitCast(u32, value);
  const auto rounded = hn::ShiftRight<16>(hn::Add(bits, hn::Set(u32, 0x8000)));
  const auto high = hn::IfThenElse(number, rounded, hn::Set(u32, 0x7FC0));
  const auto low = hn::IfThenElseZero(number, hn::Sub(bits, hn::ShiftLeft<16>(rounded)));
  hn::StoreU(hn::DemoteTo(u16, hn::BitCast(i32, high)), u16, upper);
  hn::StoreU(hn::DemoteTo(i16, hn::BitCast(i32, low)), i16, remainder);
}

HWY_INLINE Vec load(Floats d, const void* from, std::int64_t i, Element element) {
  if (HWY_LIKELY(element == Element::float32))
    return hn::LoadU(d, static_cast<const float*>(from) + i);
  const auto* half = static_cast<const std::uint16_t*>(from) + i;
  return element == Element::bfloat16 ? load_bfloat(d, half) : load_half(d, half);
}

HWY_INLINE void store(Floats d, Vec value, void* to, std::int64_t i, Element element) {
  if (HWY_LIKELY(element == Element::float32))
    return hn::StoreU(value, d, static_cast<float*>(to) + i);
  auto* half = static_cast<std::uint16_t*>(to) + i;
  element == Element::bfloat16 ? store_bfloat(d, value, half) : store_half(d, value, half);
}

HWY_INLINE std::size_t bytes_of(Element element) {
  return element == Element::float32 ? 4 : 2;
}

/// Calls `body(span, i)` for each whole vector of [begin, end), and once more for the rest, which
/// it finds at 0 of a padded copy: so every element is computed alike, wherever it lies.
template <class Body>
HWY_INLINE void for_each_vector(Floats d, const KernelSpan& span, std::int64_t begin,
                                std::int64_t end, const Body& body) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  std::int64_t i = begin;
  for (; i + lanes <= end; i += lanes) body(span, i);
  if (i == end) return;

  constexpr std::size_t kBytes = 4 * hn::MaxLanes(Floats());
  HWY_ALIGN char memory[7][kBytes] = {};
  const auto rest = static_cast<std::size_t>(end - i);
  KernelSpan padded = span;
  const auto take = [&](int slot, const void* from, Element element) -> void* {
    if (from == nullptr) return nullptr;
    const auto bytes = bytes_of(element);
    std::memcpy(memory[slot], static_cast<const char*>(from) + static_cast<std::size_t>(i) * bytes,
                rest * bytes);
    return memory[slot];
  };
  const auto give = [&](int slot, void* to, Element element) {
    if (to == nullptr) return;
    const auto bytes = bytes_of(element);
    std::memcpy(static_cast<char*>(to) + static_cast<std::size_t>(i) * bytes, memory[slot],
                rest * bytes);
  };
  padded.gradient = take(0, span.gradient, span.gradient_element);
  padded.parameter = take(1, span.parameter, span.element);
  padded.low = take(2, span.low, span.low_element);
  for (int b = 0; b < 3; ++b) padded.buffers[b] = take(3 + b, span.buffers[b], span.buffer_element);
  padded.remainder = static_cast<std::int16_t*>(take(6, span.remainder, Element::bfloat16));
  body(padded, 0);
  give(1, span.parameter, span.element);
  give(2, span.low, span.low_element);
  for (int b = 0; b < 3; ++b) give(3 + b, span.buffers[b], span.buffer_element);
  give(6, span.remainder, Element::bfloat16);
}

}  // namespace halfstep::optim::detail::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per target
