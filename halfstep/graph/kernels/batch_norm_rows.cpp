#include "halfstep/graph/kernels/batch_norm_rows.h"

#include <algorithm>

#define HWY_DISABLED_TARGETS HWY_SSSE3
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "halfstep/graph/kernels/batch_norm_rows.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.h.
#include "halfstep/graph/kernels/bfloat16_vectors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace halfstep::detail::HWY_NAMESPACE {

HWY_INLINE Vec multiply_add(bool fuses, Vec a, Vec b, Vec c) {
  return fuses ? hn::MulAdd(a, b, c) : hn::Add(hn::Mul(a, b), c);
}

HWY_INLINE Vec negative_multiply_add(bool fuses, Vec a, Vec b, Vec c) {
  return fuses ? hn::NegMulAdd(a, b, c) : hn::Sub(c, hn::Mul(a, b));
}

// Rows whose numbers stay in the cache while their columns are gone through.
constexpr int64_t kBlock = 16;

/// Calls body(first row, last row, c) for blocks of rows and each group of `width` channels.
template <class Body>
HWY_INLINE void for_each_group(int64_t channels, int64_t width, int64_t begin, int64_t end,
                               const Body& body) {
  for (int64_t row = begin; row < end; row += kBlock) {
    const auto last = std::min(row + kBlock, end);
    for (int64_t c = 0; c + width <= channels; c += width) body(row, last, c);
  }
}

/// sums[c] = step(sums[c], row, c) for each row; four vectors at a time, since an addition waits
/// for the one before.
template <class Step>
HWY_INLINE void accumulate(int64_t channels, int64_t begin, int64_t end, float* sums,
                           const Step& step) {
  const Floats d;
  const auto n = static_cast<int64_t>(hn::Lanes(d));
  const int64_t wide = channels / (4 * n) * (4 * n);
  for_each_group(wide, 4 * n, begin, end, [&](int64_t row, int64_t last, int64_t c) {
    auto a0 = hn::LoadU(d, sums + c), a1 = hn::LoadU(d, sums + c + n);
    auto a2 = hn::LoadU(d, sums + c + 2 * n), a3 = hn::LoadU(d, sums + c + 3 * n);
    for (; row < last; ++row) {
      a0 = step(a0, row, c);
      a1 = step(a1, row, c + n);
      a2 = step(a2, row, c + 2 * n);
      a3 = step(a3, row, c + 3 * n);
    }
    hn::StoreU(a0, d, sums + c);
    hn::StoreU(a1, d, sums + c + n);
    hn::StoreU(a2, d, sums + c + 2 * n);
    hn::StoreU(a3, d, sums + c + 3 * n);
  });
  for (int64_t c = wide; c < channels; c += n) {
    auto sum = hn::LoadU(d, sums + c);
    for (int64_t row = begin; row < end; ++row) sum = step(sum, row, c);
    hn::StoreU(sum, d, sums + c);
  }
}

void add_rows(const uint16_t* x, int64_t channels, int64_t begin, int64_t end, float* sums) {
  accumulate(channels, begin, end, sums, [&](Vec sum, int64_t row, int64_t c) {
    return hn::Add(sum, load_bfloat(x + row * channels + c));
  });
}

void add_squares(const uint16_t* x, const float* mean, int64_t channels, int64_t begin, int64_t end,
                 bool fuses, float* sums) {
  accumulate(channels, begin, end, sums, [&](Vec sum, int64_t row, int64_t c) {
    const auto centered =
        hn::Sub(load_bfloat(x + row * channels + c), hn::LoadU(Floats(), mean + c));
    return multiply_add(fuses, centered, centered, sum);
  });
}

template <bool kAdds, bool kRelu>
HWY_INLINE void normalize(const NormalizedRows& rows, int64_t begin, int64_t end) {
  const Floats d;
  const Rounding rounded(rows.habits.flushes);
  const bool fuses = rows.habits.fuses_scale;
  const auto n = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t row = begin; row < end; ++row) {
    const auto* x = rows.input + row * rows.channels;
    const auto* other = kAdds ? rows.other + row * rows.channels : nullptr;
    auto* to = rows.output + row * rows.channels;
    for (int64_t c = 0; c < rows.channels; c += n) {
      auto y = rounded(multiply_add(fuses, load_bfloat(x + c), hn::LoadU(d, rows.scale + c),
                                    hn::LoadU(d, rows.shift + c)));
      if constexpr (kAdds) y = rounded(hn::Add(y, load_bfloat(other + c)));
      if constexpr (kRelu) y = hn::IfThenZeroElse(hn::Lt(y, hn::Zero(d)), y);
      store_bfloat(y, to + c);
    }
  }
}

void normalize_rows(const NormalizedRows& rows, int64_t begin, int64_t end) {
  if (rows.other != nullptr)
    return rows.relu ? normalize<true, true>(rows, begin, end)
                     : normalize<true, false>(rows, begin, end);
  return rows.relu ? normalize<false, true>(rows, begin, end)
                   : normalize<false, false>(rows, begin, end);
}

/// One vector of GradientRows.
template <bool kAdds, bool kMasks>
HWY_INLINE Vec gradient_at(const GradientRows& rows, const Rounding& rounded, int64_t i) {
  auto grad = load_bfloat(rows.grad + i);
  if constexpr (kAdds) grad = rounded(hn::Add(grad, load_bfloat(rows.other + i)));
  if constexpr (kMasks)
    grad = hn::IfThenZeroElse(hn::Le(load_bfloat(rows.output + i), hn::Zero(Floats())),
                              rounded.flushed(grad));
  return grad;
}

template <bool kAdds, bool kMasks>
HWY_INLINE void add_gradients_as(const GradientRows& rows, int64_t begin, int64_t end, float* sums,
                                 float* dots, uint16_t* kept) {
  const Floats d;
  const Rounding rounded(rows.habits.flushes);
  const auto n = static_cast<int64_t>(hn::Lanes(d));
  const auto* mean = rows.mean;
  const bool fuses = rows.habits.fuses_dots;
  const auto add = [&](int64_t row, int64_t c, Vec& sum, Vec& dot) HWY_ATTR {
    const auto i = row * rows.channels + c;
    const auto grad = gradient_at<kAdds, kMasks>(rows, rounded, i);
    sum = hn::Add(grad, sum);
    dot = multiply_add(fuses, hn::Sub(load_bfloat(rows.input + i), hn::LoadU(d, mean + c)), grad,
                       dot);
    if (kept != nullptr) store_bfloat(grad, kept + i);
  };
  for_each_group(rows.channels, 2 * n, begin, end, [&](int64_t row, int64_t last, int64_t c) {
    auto s0 = hn::LoadU(d, sums + c), s1 = hn::LoadU(d, sums + c + n);
    auto d0 = hn::LoadU(d, dots + c), d1 = hn::LoadU(d, dots + c + n);
    for (; row < last; ++row) {
      add(row, c, s0, d0);
      add(row, c + n, s1, d1);
    }
    hn::StoreU(s0, d, sums + c);
    hn::StoreU(s1, d, sums + c + n);
    hn::StoreU(d0, d, dots + c);
    hn::StoreU(d1, d, dots + c + n);
  });
}

void add_gradients(const GradientRows& rows, int64_t begin, int64_t end, float* sums, float* dots,
                   uint16_t* kept) {
  if (rows.other != nullptr)
    return rows.output != nullptr
               ? add_gradients_as<true, true>(rows, begin, end, sums, dots, kept)
               : add_gradients_as<true, false>(rows, begin, end, sums, dots, kept);
  return rows.output != nullptr
             ? add_gradients_as<false, true>(rows, begin, end, sums, dots, kept)
             : add_gradients_as<false, false>(rows, begin, end, sums, dots, kept);
}

template <bool kAdds, bool kMasks>
HWY_INLINE void input_gradients_as(const GradientRows& rows, const InputGradient& result,
                                   int64_t begin, int64_t end) {
  const Floats d;
  const Rounding rounded(rows.habits.flushes);
  const bool fuses = rows.habits.fuses_slope;
  const auto n = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t row = begin; row < end; ++row) {
    for (int64_t c = 0; c < rows.channels; c += n) {
      const auto i = row * rows.channels + c;
      const auto grad = gradient_at<kAdds, kMasks>(rows, rounded, i);
      const auto centered = hn::Sub(load_bfloat(rows.input + i), hn::LoadU(d, rows.mean + c));
      const auto rest = negative_multiply_add(fuses, centered, hn::LoadU(d, result.slope + c),
                                              hn::Sub(grad, hn::LoadU(d, result.mean_grad + c)));
      const auto scaled =
          hn::Mul(hn::Mul(rest, hn::LoadU(d, result.invstd + c)), hn::LoadU(d, result.weight + c));
      store_bfloat(rounded(scaled), result.to + i);
    }
  }
}

void input_gradients(const GradientRows& rows, const InputGradient& result, int64_t begin,
                     int64_t end) {
  if (rows.other != nullptr)
    return rows.output != nullptr ? input_gradients_as<true, true>(rows, result, begin, end)
                                  : input_gradients_as<true, false>(rows, result, begin, end);
  return rows.output != nullptr ? input_gradients_as<false, true>(rows, result, begin, end)
                                : input_gradients_as<false, false>(rows, result, begin, end);
}

}  // namespace halfstep::detail::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace halfstep::detail {

HWY_EXPORT(add_rows);
HWY_EXPORT(add_squares);
HWY_EXPORT(normalize_rows);
HWY_EXPORT(add_gradients);
HWY_EXPORT(input_gradients);

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
