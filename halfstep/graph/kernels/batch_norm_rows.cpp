#include "halfstep/graph/kernels/batch_norm_rows.h"

#include <algorithm>
#include <limits>

#define HWY_DISABLED_TARGETS HWY_SSSE3
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "halfstep/graph/kernels/batch_norm_rows.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.h.
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace halfstep::detail::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// At most 16 lanes: two vectors are what kChannelMultiple is a multiple of.
using Floats = hn::CappedTag<float, 16>;
using Words = hn::Rebind<uint32_t, Floats>;
using Vec = hn::Vec<Floats>;

HWY_INLINE int64_t lanes() {
  return static_cast<int64_t>(hn::Lanes(Floats()));
}

/// Two vectors of channels: the even ones and the odd ones, which take one instruction each to get
/// from a vector of bfloat16. Arrays of float32 are stored in this order (channel_places).
struct Pair {
  Vec even, odd;
};

HWY_INLINE Pair load(const uint16_t* from) {
  const Words u32;
  const auto both = hn::LoadU(u32, reinterpret_cast<const uint32_t*>(from));
  return {hn::BitCast(Floats(), hn::ShiftLeft<16>(both)),
          hn::BitCast(Floats(), hn::And(both, hn::Set(u32, 0xFFFF0000)))};
}

HWY_INLINE Pair load(const float* from) {
  return {hn::LoadU(Floats(), from), hn::LoadU(Floats(), from + lanes())};
}

HWY_INLINE void store(const Pair& values, float* to) {
  hn::StoreU(values.even, Floats(), to);
  hn::StoreU(values.odd, Floats(), to + lanes());
}

/// Values that are bfloat16 numbers.
HWY_INLINE void store(const Pair& values, uint16_t* to) {
  const Words u32;
  const auto even = hn::ShiftRight<16>(hn::BitCast(u32, values.even));
  hn::StoreU(hn::Or(even, hn::BitCast(u32, values.odd)), u32, reinterpret_cast<uint32_t*>(to));
}

template <bool kFlushes>
HWY_INLINE Vec flushed(Vec value) {
  const Floats d;
  if constexpr (!kFlushes) return value;
  return hn::IfThenElse(hn::Lt(hn::Abs(value), hn::Set(d, std::numeric_limits<float>::min())),
                        hn::CopySign(hn::Zero(d), value), value);
}

/// To bfloat16, to nearest even. A NaN must have few bits set, as those from bfloat16 numbers and
/// from arithmetic do: it could carry into the sign.
template <bool kFlushes>
HWY_INLINE Vec rounded(Vec value) {
  const Words u32;
  const auto bits = hn::BitCast(u32, value);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(u32, 1));
  const auto sum = hn::Add(bits, hn::Add(odd, hn::Set(u32, 0x7FFF)));
  return flushed<kFlushes>(hn::BitCast(Floats(), hn::And(sum, hn::Set(u32, 0xFFFF0000))));
}

HWY_INLINE Vec multiply_add(bool fuses, Vec a, Vec b, Vec c) {
  return fuses ? hn::MulAdd(a, b, c) : hn::Add(hn::Mul(a, b), c);
}

HWY_INLINE Vec negative_multiply_add(bool fuses, Vec a, Vec b, Vec c) {
  return fuses ? hn::NegMulAdd(a, b, c) : hn::Sub(c, hn::Mul(a, b));
}

// Rows whose numbers stay in the cache while their columns are gone through.
constexpr int64_t kBlock = 16;

/// Calls body(first row, last row, c) for blocks of rows and each pair of vectors of channels.
template <class Body>
HWY_INLINE void for_each_column(int64_t channels, int64_t begin, int64_t end, const Body& body) {
  for (int64_t row = begin; row < end; row += kBlock) {
    const auto last = std::min(row + kBlock, end);
    for (int64_t c = 0; c < channels; c += 2 * lanes()) body(row, last, c);
  }
}

void channel_places(int64_t channels, int64_t* places) {
  const auto n = lanes();
  for (int64_t c = 0; c < channels; ++c)
    places[c] = c / (2 * n) * (2 * n) + c % 2 * n + c % (2 * n) / 2;
}

void add_rows(const uint16_t* x, int64_t channels, int64_t begin, int64_t end, float* sums) {
  for_each_column(channels, begin, end, [&](int64_t row, int64_t last, int64_t c) HWY_ATTR {
    auto sum = load(sums + c);
    for (; row < last; ++row) {
      const auto value = load(x + row * channels + c);
      sum.even = hn::Add(sum.even, value.even);
      sum.odd = hn::Add(sum.odd, value.odd);
    }
    store(sum, sums + c);
  });
}

template <bool kFuses>
HWY_INLINE void add_squares_as(const uint16_t* x, const float* mean, int64_t channels,
                               int64_t begin, int64_t end, float* sums) {
  for_each_column(channels, begin, end, [&](int64_t row, int64_t last, int64_t c) HWY_ATTR {
    auto sum = load(sums + c);
    const auto center = load(mean + c);
    for (; row < last; ++row) {
      const auto value = load(x + row * channels + c);
      const auto even = hn::Sub(value.even, center.even), odd = hn::Sub(value.odd, center.odd);
      sum.even = multiply_add(kFuses, even, even, sum.even);
      sum.odd = multiply_add(kFuses, odd, odd, sum.odd);
    }
    store(sum, sums + c);
  });
}

void add_squares(const uint16_t* x, const float* mean, int64_t channels, int64_t begin, int64_t end,
                 bool fuses, float* sums) {
  fuses ? add_squares_as<true>(x, mean, channels, begin, end, sums)
        : add_squares_as<false>(x, mean, channels, begin, end, sums);
}

template <bool kAdds, bool kRelu, bool kFlushes>
HWY_INLINE void normalize(const NormalizedRows& rows, int64_t begin, int64_t end) {
  const bool fuses = rows.habits.fuses_scale;
  const auto zero = hn::Zero(Floats());
  for_each_column(rows.channels, begin, end, [&](int64_t row, int64_t last, int64_t c) HWY_ATTR {
    const auto scale = load(rows.scale + c), shift = load(rows.shift + c);
    for (; row < last; ++row) {
      const auto i = row * rows.channels + c;
      const auto x = load(rows.input + i);
      Pair y = {rounded<kFlushes>(multiply_add(fuses, x.even, scale.even, shift.even)),
                rounded<kFlushes>(multiply_add(fuses, x.odd, scale.odd, shift.odd))};
      if constexpr (kAdds) {
        const auto other = load(rows.other + i);
        y = {rounded<kFlushes>(hn::Add(y.even, other.even)),
             rounded<kFlushes>(hn::Add(y.odd, other.odd))};
      }
      if constexpr (kRelu)
        y = {hn::IfThenZeroElse(hn::Lt(y.even, zero), y.even),
             hn::IfThenZeroElse(hn::Lt(y.odd, zero), y.odd)};
      store(y, rows.output + i);
    }
  });
}

void normalize_rows(const NormalizedRows& rows, int64_t begin, int64_t end) {
  const bool adds = rows.other != nullptr;
  if (rows.habits.flushes) {
    if (adds)
      return rows.relu ? normalize<true, true, true>(rows, begin, end)
                       : normalize<true, false, true>(rows, begin, end);
    return rows.relu ? normalize<false, true, true>(rows, begin, end)
                     : normalize<false, false, true>(rows, begin, end);
  }
  if (adds)
    return rows.relu ? normalize<true, true, false>(rows, begin, end)
                     : normalize<true, false, false>(rows, begin, end);
  return rows.relu ? normalize<false, true, false>(rows, begin, end)
                   : normalize<false, false, false>(rows, begin, end);
}

/// What GradientRows stand for, one pair of vectors at a time.
template <bool kAdds, bool kMasks, bool kFlushes>
HWY_INLINE Pair gradient_at(const GradientRows& rows, int64_t i) {
  auto grad = load(rows.grad + i);
  if constexpr (kAdds) {
    const auto other = load(rows.other + i);
    grad = {rounded<kFlushes>(hn::Add(grad.even, other.even)),
            rounded<kFlushes>(hn::Add(grad.odd, other.odd))};
  } else if constexpr (kMasks) {
    grad = {flushed<kFlushes>(grad.even), flushed<kFlushes>(grad.odd)};
  }
  if constexpr (kMasks) {
    const auto zero = hn::Zero(Floats());
    const auto output = load(rows.output + i);
    grad = {hn::IfThenZeroElse(hn::Le(output.even, zero), grad.even),
            hn::IfThenZeroElse(hn::Le(output.odd, zero), grad.odd)};
  }
  return grad;
}

template <bool kAdds, bool kMasks, bool kFlushes>
HWY_INLINE void add_gradients_as(const GradientRows& rows, int64_t begin, int64_t end, float* sums,
                                 float* dots, uint16_t* kept) {
  const bool fuses = rows.habits.fuses_dots;
  for_each_column(rows.channels, begin, end, [&](int64_t row, int64_t last, int64_t c) HWY_ATTR {
    auto sum = load(sums + c), dot = load(dots + c);
    const auto mean = load(rows.mean + c);
    for (; row < last; ++row) {
      const auto i = row * rows.channels + c;
      const auto grad = gradient_at<kAdds, kMasks, kFlushes>(rows, i);
      const auto x = load(rows.input + i);
      sum = {hn::Add(grad.even, sum.even), hn::Add(grad.odd, sum.odd)};
      dot = {multiply_add(fuses, hn::Sub(x.even, mean.even), grad.even, dot.even),
             multiply_add(fuses, hn::Sub(x.odd, mean.odd), grad.odd, dot.odd)};
      if (kept != nullptr) store(grad, kept + i);
    }
    store(sum, sums + c);
    store(dot, dots + c);
  });
}

template <bool kAdds, bool kMasks, bool kFlushes>
HWY_INLINE void input_gradients_as(const GradientRows& rows, const InputGradient& result,
                                   int64_t begin, int64_t end) {
  const bool fuses = rows.habits.fuses_slope;
  for_each_column(rows.channels, begin, end, [&](int64_t row, int64_t last, int64_t c) HWY_ATTR {
    const auto mean = load(rows.mean + c), slope = load(result.slope + c);
    const auto mean_grad = load(result.mean_grad + c);
    const auto invstd = load(result.invstd + c), weight = load(result.weight + c);
    const auto of = [&](Vec grad, Vec x, Vec m, Vec k, Vec g, Vec s, Vec w) HWY_ATTR {
      const auto rest = negative_multiply_add(fuses, hn::Sub(x, m), k, hn::Sub(grad, g));
      return rounded<kFlushes>(hn::Mul(hn::Mul(rest, s), w));
    };
    for (; row < last; ++row) {
      const auto i = row * rows.channels + c;
      const auto grad = gradient_at<kAdds, kMasks, kFlushes>(rows, i);
      const auto x = load(rows.input + i);
      store(Pair{of(grad.even, x.even, mean.even, slope.even, mean_grad.even, invstd.even,
                    weight.even),
                 of(grad.odd, x.odd, mean.odd, slope.odd, mean_grad.odd, invstd.odd, weight.odd)},
            result.to + i);
    }
  });
}

template <bool kFlushes>
HWY_INLINE void add_gradients_of(const GradientRows& rows, int64_t begin, int64_t end, float* sums,
                                 float* dots, uint16_t* kept) {
  if (rows.other != nullptr)
    return rows.output != nullptr
               ? add_gradients_as<true, true, kFlushes>(rows, begin, end, sums, dots, kept)
               : add_gradients_as<true, false, kFlushes>(rows, begin, end, sums, dots, kept);
  return rows.output != nullptr
             ? add_gradients_as<false, true, kFlushes>(rows, begin, end, sums, dots, kept)
             : add_gradients_as<false, false, kFlushes>(rows, begin, end, sums, dots, kept);
}

void add_gradients(const GradientRows& rows, int64_t begin, int64_t end, float* sums, float* dots,
                   uint16_t* kept) {
  rows.habits.flushes ? add_gradients_of<true>(rows, begin, end, sums, dots, kept)
                      : add_gradients_of<false>(rows, begin, end, sums, dots, kept);
}

template <bool kFlushes>
HWY_INLINE void input_gradients_of(const GradientRows& rows, const InputGradient& result,
                                   int64_t begin, int64_t end) {
  if (rows.other != nullptr)
    return rows.output != nullptr
               ? input_gradients_as<true, true, kFlushes>(rows, result, begin, end)
               : input_gradients_as<true, false, kFlushes>(rows, result, begin, end);
  return rows.output != nullptr
             ? input_gradients_as<false, true, kFlushes>(rows, result, begin, end)
             : input_gradients_as<false, false, kFlushes>(rows, result, begin, end);
}

void input_gradients(const GradientRows& rows, const InputGradient& result, int64_t begin,
                     int64_t end) {
  rows.habits.flushes ? input_gradients_of<true>(rows, result, begin, end)
                      : input_gradients_of<false>(rows, result, begin, end);
}

}  // namespace halfstep::detail::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace halfstep::detail {

HWY_EXPORT(channel_places);
HWY_EXPORT(add_rows);
HWY_EXPORT(add_squares);
HWY_EXPORT(normalize_rows);
HWY_EXPORT(add_gradients);
HWY_EXPORT(input_gradients);

std::vector<int64_t> channel_places(int64_t channels) {
  std::vector<int64_t> places(static_cast<size_t>(channels));
  HWY_DYNAMIC_DISPATCH(channel_places)(channels, places.data());
  return places;
}

void add_rows(const uint16_t* x, int64_t channels, int64_t begin, int64_t end, float* sums) {
  HWY_DYNAMIC_DISPATCH(add_rows)(x, channels, begin, end, sums);
}

void add_squares(const uint16_t* x, const float* mean, int64_t channels, int64_t begin, int64_t end,
                 bool fuses, float* sums) {
  HWY_DYNAMIC_DISPATCH(add_squares)(x, mean, channels, begin, end, fuses, sums);
}

void normalize_rows(const NormalizedRows& rows, int64_t begin, int64_t end) {
  HWY_DYNAMIC_DISPATCH(normalize_rows)(rows, begin, end);
}

void add_gradients(const GradientRows& rows, int64_t begin, int64_t end, float* sums, float* dots,
                   uint16_t* kept) {
  HWY_DYNAMIC_DISPATCH(add_gradients)(rows, begin, end, sums, dots, kept);
}

void input_gradients(const GradientRows& rows, const InputGradient& result, int64_t begin,
                     int64_t end) {
  HWY_DYNAMIC_DISPATCH(input_gradients)(rows, result, begin, end);
}

}  // namespace halfstep::detail
#endif
