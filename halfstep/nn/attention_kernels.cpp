#include "halfstep/nn/attention_kernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/native/CPUBlas.h>

// The micro-kernels need AVX-512: of the other targets only the one that must be there is compiled.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX2)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "halfstep/nn/attention_kernels.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.h.
#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace halfstep::nn::detail::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using Floats = hn::ScalableTag<float>;
using Bits = hn::Rebind<uint32_t, Floats>;
using Halves = hn::Rebind<uint16_t, Floats>;
using Vec = hn::Vec<Floats>;

// Rows of keys or queries one product takes at a time, and what its width is a multiple of.
constexpr int64_t kMostRows = 64, kAlign = 16;

const uint16_t* bits_of(const c10::BFloat16* from) {
  return reinterpret_cast<const uint16_t*>(from);
}

HWY_INLINE Vec load_bfloat(const uint16_t* from) {
  const Bits bits;
  return hn::BitCast(Floats(), hn::ShiftLeft<16>(hn::PromoteTo(bits, hn::LoadU(Halves(), from))));
}

/// The bits of `value` rounded to bfloat16, to nearest even, in the upper half.
HWY_INLINE hn::Vec<Bits> rounded(Vec value) {
  const Bits d;
  const auto bits = hn::BitCast(d, value);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(d, 1));
  const auto sum = hn::Add(bits, hn::Add(odd, hn::Set(d, 0x7FFF)));
  const auto kept = hn::IfThenElse(hn::RebindMask(d, hn::Eq(value, value)), sum,
                                   hn::Set(d, 0x7FC00000));  // a NaN could carry into the sign
  return hn::And(kept, hn::Set(d, 0xFFFF0000));
}

HWY_INLINE void store_upper(hn::Vec<Bits> bits, uint16_t* to) {
  const hn::Rebind<int32_t, Floats> i32;
  hn::StoreU(hn::DemoteTo(Halves(), hn::BitCast(i32, hn::ShiftRight<16>(bits))), Halves(), to);
}

/// exp(x), NaN where x is.
HWY_INLINE Vec exp_of(Vec x) {
  return hn::IfThenElse(hn::Eq(x, x), hn::Exp(Floats(), x), x);
}

/// to[c][r] = from[r][c] for 32-bit elements; rows up to `padded_rows` are 0.
void transpose(const uint16_t* from, int64_t from_stride, int64_t rows, int64_t columns,
               uint32_t* to, int64_t to_stride, int64_t padded_rows) {
  int64_t r = 0;
#if HWY_TARGET != HWY_SCALAR
  const hn::FixedTag<uint32_t, 4> d;
  const hn::FixedTag<uint64_t, 2> pairs;
  for (; r + 4 <= rows; r += 4) {
    const auto* row = reinterpret_cast<const char*>(from + r * from_stride);
    const auto at = [&](int64_t i, int64_t c) {
      return hn::LoadU(d, reinterpret_cast<const uint32_t*>(row + i * from_stride * 2 + c * 4));
    };
    int64_t c = 0;
    for (; c + 4 <= columns; c += 4) {
      const auto r0 = at(0, c), r1 = at(1, c), r2 = at(2, c), r3 = at(3, c);
      const auto a = hn::BitCast(pairs, hn::InterleaveLower(d, r0, r1));
      const auto b = hn::BitCast(pairs, hn::InterleaveLower(d, r2, r3));
      const auto e = hn::BitCast(pairs, hn::InterleaveUpper(d, r0, r1));
      const auto f = hn::BitCast(pairs, hn::InterleaveUpper(d, r2, r3));
      auto* out = to + c * to_stride + r;
      hn::StoreU(hn::BitCast(d, hn::InterleaveLower(pairs, a, b)), d, out);
      hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(pairs, a, b)), d, out + to_stride);
      hn::StoreU(hn::BitCast(d, hn::InterleaveLower(pairs, e, f)), d, out + 2 * to_stride);
      hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(pairs, e, f)), d, out + 3 * to_stride);
    }
    for (; c < columns; ++c) {
      for (int64_t i = 0; i < 4; ++i)
        std::memcpy(to + c * to_stride + r + i, row + i * from_stride * 2 + c * 4, 4);
    }
  }
#endif
  for (; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c)
      std::memcpy(to + c * to_stride + r, from + r * from_stride + c * 2, 4);
  }
  if (rows == padded_rows) return;
  for (int64_t c = 0; c < columns; ++c)
    std::fill(to + c * to_stride + rows, to + c * to_stride + padded_rows, 0U);
}

/// Rows 2i and 2i + 1 side by side, element by element: to[i][c] = (from[2i][c], from[2i + 1][c]);
/// rows up to `padded_rows` are 0. The right operand of a micro-kernel.
void pair_rows(const uint16_t* from, int64_t stride, int64_t rows, int64_t columns, uint16_t* to,
               int64_t padded_rows) {
  int64_t r = 0;
  for (; r + 2 <= rows; r += 2) {
    const auto *upper = from + r * stride, *lower = upper + stride;
    auto* out = to + r * columns;
    int64_t c = 0;
#if HWY_TARGET != HWY_SCALAR
    const hn::ScalableTag<uint16_t> d;
    const auto lanes = static_cast<int64_t>(hn::Lanes(d));
    for (; c + lanes <= columns; c += lanes)
      hn::StoreInterleaved2(hn::LoadU(d, upper + c), hn::LoadU(d, lower + c), d, out + 2 * c);
#endif
    for (; c < columns; ++c) {
      out[2 * c] = upper[c];
      out[2 * c + 1] = lower[c];
    }
  }
  if (r < rows) {
    for (int64_t c = 0; c < columns; ++c) {
      to[r * columns + 2 * c] = from[r * stride + c];
      to[r * columns + 2 * c + 1] = 0;
    }
    r += 2;
  }
  if (r < padded_rows) std::fill(to + r * columns, to + padded_rows * columns, uint16_t{0});
}

/// Rows of float32, each times its factor (or all as they are), rounded to bfloat16.
void store_rows(const float* from, int64_t rows, int64_t columns, const float* factors,
                c10::BFloat16* to, int64_t stride) {
  const Floats d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t r = 0; r < rows; ++r) {
    const float factor = factors == nullptr ? 1.0F : factors[r];
    const auto* row = from + r * columns;
    auto* out = reinterpret_cast<uint16_t*>(to + r * stride);
    int64_t c = 0;
    for (; c + lanes <= columns; c += lanes)
      store_upper(rounded(hn::Mul(hn::LoadU(d, row + c), hn::Set(d, factor))), out + c);
    for (; c < columns; ++c) to[r * stride + c] = c10::BFloat16(row[c] * factor);
  }
}

/// The blocks of rows a head is cut into: all queries, or keys, are padded to whole ones.
struct Blocks {
  explicit Blocks(const AttentionShape& shape)
      : rows(std::min(kMostRows, (shape.length + kAlign - 1) / kAlign * kAlign)),
        count((shape.length + rows - 1) / rows),
        padded(count * rows),
        length(shape.length) {}
  int64_t rows_in(int64_t block) const { return std::min(rows, length - block * rows); }
  int64_t rows, count, padded, length;
};

c10::BFloat16* as_bfloat(uint16_t* bits) {
  return reinterpret_cast<c10::BFloat16*>(bits);
}

void multiply(int64_t m, int64_t n, int64_t k, const c10::BFloat16* a, int64_t a_stride,
              uint16_t* b, float* c, int64_t c_stride, bool add = false) {
  at::native::cpublas::brgemm(m, n, k, a_stride, n, c_stride, add, a, as_bfloat(b), c, true);
}

/// Weights of one position from its scores, rounded, not yet divided by their sum; 0 from `valid`
/// on. Gives what to multiply by instead, and the logarithm of the sum.
void weigh(const float* scores, int64_t valid, int64_t padded, float scale, uint16_t* weights,
           float* factor, float* logsumexp) {
  const Floats d;
  const Bits bits;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto inf = hn::Set(d, -std::numeric_limits<float>::infinity());
  const auto scores_at = [&](int64_t i) {
    const auto s = hn::LoadU(d, scores + i);
    return i + lanes <= valid
               ? s
               : hn::IfThenElse(hn::FirstN(d, static_cast<size_t>(valid - i)), s, inf);
  };
  auto largest = inf;
  for (int64_t i = 0; i < valid; i += lanes) largest = hn::Max(largest, scores_at(i));
  const auto most = hn::Mul(hn::MaxOfLanes(d, largest), hn::Set(d, scale));
  auto sum = hn::Zero(d);
  int64_t i = 0;
  for (; i < valid; i += lanes) {
    const auto weight = rounded(exp_of(hn::MulSub(scores_at(i), hn::Set(d, scale), most)));
    sum = hn::Add(sum, hn::BitCast(d, weight));
    store_upper(weight, weights + i);
  }
  for (; i < padded; i += lanes) store_upper(hn::Zero(bits), weights + i);
  const float total = hn::GetLane(hn::SumOfLanes(d, sum));
  *factor = 1 / total;
  *logsumexp = hn::GetLane(most) + std::log(total);
}

void forward_heads(const AttentionShape& shape, const HeadsIn& query, const HeadsIn& key,
                   const HeadsIn& value, const HeadsOut& output, float* logsumexp, int64_t begin,
                   int64_t end) {
  const Blocks blocks(shape);
  const int64_t width = shape.width;
  std::vector<uint32_t> keys(size_t(blocks.padded * width / 2));  // a block: [width / 2][rows]
  std::vector<uint16_t> values(size_t(blocks.padded * width));
  std::vector<uint16_t> weights(size_t(blocks.rows * blocks.padded));
  std::vector<float> scores(size_t(blocks.rows * blocks.padded));
  std::vector<float> sums(size_t(blocks.rows * width)), factors(size_t(blocks.rows));
  for (int64_t head = begin; head < end; ++head) {
    const auto *q = query.head(shape, head), *k = key.head(shape, head),
               *v = value.head(shape, head);
    for (int64_t j = 0; j < blocks.count; ++j)
      transpose(bits_of(k + j * blocks.rows * key.row_stride), key.row_stride, blocks.rows_in(j),
                width / 2, keys.data() + j * blocks.rows * width / 2, blocks.rows, blocks.rows);
    pair_rows(bits_of(v), value.row_stride, shape.length, width, values.data(), blocks.padded);
    for (int64_t i = 0; i < blocks.count; ++i) {
      const auto first = i * blocks.rows, rows = blocks.rows_in(i);
      const auto seen = shape.is_causal ? i + 1 : blocks.count;
      for (int64_t j = 0; j < seen; ++j)
        multiply(rows, blocks.rows, width, q + first * query.row_stride, query.row_stride,
                 reinterpret_cast<uint16_t*>(keys.data() + j * blocks.rows * width / 2),
                 scores.data() + j * blocks.rows, blocks.padded);
      for (int64_t r = 0; r < rows; ++r)
        weigh(scores.data() + r * blocks.padded, shape.is_causal ? first + r + 1 : shape.length,
              seen * blocks.rows, shape.scale, weights.data() + r * blocks.padded,
              &factors[size_t(r)], logsumexp + head * shape.length + first + r);
      multiply(rows, width, seen * blocks.rows, as_bfloat(weights.data()), blocks.padded,
               values.data(), sums.data(), width);
      store_rows(sums.data(), rows, width, factors.data(),
                 output.head(shape, head) + first * output.row_stride, output.row_stride);
    }
  }
}

/// Memory of one thread's backward.
struct Scratch {
  Scratch(const Blocks& blocks, int64_t width)
      : queries(size_t(blocks.padded * width / 2)),
        grads(queries.size()),
        query_pairs(size_t(blocks.padded * width)),
        grad_pairs(query_pairs.size()),
        key_pairs(query_pairs.size()),
        scores(size_t(blocks.rows * blocks.padded)),
        grad_weights(scores.size()),
        weights(scores.size()),
        grad_scores(scores.size()),
        paired(scores.size() / 2),
        turned(scores.size()),
        sums(size_t(blocks.rows * width)),
        grad_query(query_pairs.size()),
        logsumexp(size_t(blocks.padded), std::numeric_limits<float>::infinity()),
        means(size_t(blocks.padded)) {}
  std::vector<uint32_t> queries, grads;  // transposed pairs, block by block
  std::vector<uint16_t> query_pairs, grad_pairs, key_pairs;
  std::vector<float> scores, grad_weights;     // [keys of a block][all queries]
  std::vector<uint16_t> weights, grad_scores;  // the same, rounded
  std::vector<uint32_t> paired, turned;        // grad_scores by pairs of keys; [queries][keys]
  std::vector<float> sums, grad_query;
  std::vector<float> logsumexp, means;  // of each query; the padding sees nothing
};

/// Σ a · b of each row.
void row_products(const c10::BFloat16* a, int64_t a_stride, const c10::BFloat16* b,
                  int64_t b_stride, int64_t rows, int64_t columns, float* to) {
  const Floats d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t r = 0; r < rows; ++r, a += a_stride, b += b_stride) {
    auto sum = hn::Zero(d);
    int64_t c = 0;
    for (; c + lanes <= columns; c += lanes)
      sum = hn::MulAdd(load_bfloat(bits_of(a) + c), load_bfloat(bits_of(b) + c), sum);
    to[r] = hn::GetLane(hn::SumOfLanes(d, sum));
    for (; c < columns; ++c) to[r] += float(a[c]) * float(b[c]);
  }
}

/// Weights and gradients of the scores of a block of keys, for the queries from `from` on, from
/// scores and gradients of weights.
void differentiate(const AttentionShape& shape, const Blocks& blocks, int64_t first_key,
                   int64_t keys, int64_t from, Scratch& s) {
  const Floats d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto scale = hn::Set(d, shape.scale);
  for (int64_t key = 0; key < blocks.rows; ++key) {
    const auto row = key * blocks.padded;
    auto* pairs = s.paired.data() + key / 2 * blocks.padded;
    if (key >= keys) {  // padding
      if (key % 2 == 0) std::fill(pairs + from, pairs + blocks.padded, 0U);
      continue;
    }
    for (int64_t i = from; i < blocks.padded; i += lanes) {
      const auto score = hn::MulSub(hn::LoadU(d, s.scores.data() + row + i), scale,
                                    hn::LoadU(d, s.logsumexp.data() + i));
      auto weight = exp_of(score);
      if (shape.is_causal && i < first_key + key) {
        const auto before = static_cast<size_t>(std::min(lanes, first_key + key - i));
        weight = hn::IfThenZeroElse(hn::FirstN(d, before), weight);
      }
      const auto centered =
          hn::Sub(hn::LoadU(d, s.grad_weights.data() + row + i), hn::LoadU(d, s.means.data() + i));
      auto grad = hn::Mul(hn::Mul(weight, centered), scale);
      if (shape.is_causal && i < first_key + key) {  // 0, also where a gradient is not finite
        const auto before = static_cast<size_t>(std::min(lanes, first_key + key - i));
        grad = hn::IfThenZeroElse(hn::FirstN(d, before), grad);
      }
      const auto grad_bits = rounded(grad);
      store_upper(rounded(weight), s.weights.data() + row + i);
      store_upper(grad_bits, s.grad_scores.data() + row + i);
      const Bits bits;
      hn::StoreU(key % 2 == 0 ? hn::ShiftRight<16>(grad_bits)
                              : hn::Or(hn::LoadU(bits, pairs + i), grad_bits),
                 bits, pairs + i);
    }
  }
}

void backward_heads(const AttentionShape& shape, const HeadsIn& query, const HeadsIn& key,
                    const HeadsIn& value, const HeadsIn& output, const float* logsumexp,
                    const HeadsIn& grad, const HeadsOut& grad_query, const HeadsOut& grad_key,
                    const HeadsOut& grad_value, int64_t begin, int64_t end) {
  const Blocks blocks(shape);
  const int64_t width = shape.width, rows = blocks.rows, padded = blocks.padded;
  Scratch s(blocks, width);
  for (int64_t head = begin; head < end; ++head) {
    const auto *q = query.head(shape, head), *k = key.head(shape, head),
               *v = value.head(shape, head), *g = grad.head(shape, head);
    for (int64_t i = 0; i < blocks.count; ++i) {
      const auto at = i * rows * width / 2;
      transpose(bits_of(q + i * rows * query.row_stride), query.row_stride, blocks.rows_in(i),
                width / 2, s.queries.data() + at, rows, rows);
      transpose(bits_of(g + i * rows * grad.row_stride), grad.row_stride, blocks.rows_in(i),
                width / 2, s.grads.data() + at, rows, rows);
    }
    pair_rows(bits_of(q), query.row_stride, shape.length, width, s.query_pairs.data(), padded);
    pair_rows(bits_of(g), grad.row_stride, shape.length, width, s.grad_pairs.data(), padded);
    pair_rows(bits_of(k), key.row_stride, shape.length, width, s.key_pairs.data(), padded);
    std::copy_n(logsumexp + head * shape.length, shape.length, s.logsumexp.data());
    row_products(g, grad.row_stride, output.head(shape, head), output.row_stride, shape.length,
                 width, s.means.data());
    for (int64_t j = 0; j < blocks.count; ++j) {
      const auto keys = blocks.rows_in(j), first = shape.is_causal ? j : 0, from = first * rows;
      for (int64_t i = first; i < blocks.count; ++i) {
        const auto block = i * rows * width / 2;
        multiply(keys, rows, width, k + j * rows * key.row_stride, key.row_stride,
                 reinterpret_cast<uint16_t*>(s.queries.data() + block), s.scores.data() + i * rows,
                 padded);
        multiply(keys, rows, width, v + j * rows * value.row_stride, value.row_stride,
                 reinterpret_cast<uint16_t*>(s.grads.data() + block),
                 s.grad_weights.data() + i * rows, padded);
      }
      differentiate(shape, blocks, j * rows, keys, from, s);
      const auto product_of = [&](uint16_t* left, std::vector<uint16_t>& right,
                                  const HeadsOut& to) {
        multiply(keys, width, padded - from, as_bfloat(left + from), padded,
                 right.data() + from * width, s.sums.data(), width);
        store_rows(s.sums.data(), keys, width, nullptr,
                   to.head(shape, head) + j * rows * to.row_stride, to.row_stride);
      };
      product_of(s.weights.data(), s.grad_pairs, grad_value);
      product_of(s.grad_scores.data(), s.query_pairs, grad_key);
      transpose(reinterpret_cast<const uint16_t*>(s.paired.data() + from), 2 * padded, rows / 2,
                padded - from, s.turned.data(), rows / 2, rows / 2);
      for (int64_t i = first; i < blocks.count; ++i)
        multiply(blocks.rows_in(i), width, rows,
                 reinterpret_cast<c10::BFloat16*>(s.turned.data() + (i - first) * rows * rows / 2),
                 rows, s.key_pairs.data() + j * rows * width,
                 s.grad_query.data() + i * rows * width, width, j > 0);
    }
    store_rows(s.grad_query.data(), shape.length, width, nullptr, grad_query.head(shape, head),
               grad_query.row_stride);
  }
}

}  // namespace halfstep::nn::detail::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace halfstep::nn::detail {

HWY_EXPORT(forward_heads);
HWY_EXPORT(backward_heads);

void attention_forward(const AttentionShape& shape, const HeadsIn& query, const HeadsIn& key,
                       const HeadsIn& value, const HeadsOut& output, float* logsumexp) {
  at::parallel_for(0, shape.batch * shape.heads, 1, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(forward_heads)
    (shape, query, key, value, output, logsumexp, begin, end);
    at::native::cpublas::brgemm_release(true);
  });
}

void attention_backward(const AttentionShape& shape, const HeadsIn& query, const HeadsIn& key,
                        const HeadsIn& value, const HeadsIn& output, const float* logsumexp,
                        const HeadsIn& grad, const HeadsOut& grad_query, const HeadsOut& grad_key,
                        const HeadsOut& grad_value) {
  at::parallel_for(0, shape.batch * shape.heads, 1, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(backward_heads)
    (shape, query, key, value, output, logsumexp, grad, grad_query, grad_key, grad_value, begin,
     end);
    at::native::cpublas::brgemm_release(true);
  });
}

}  // namespace halfstep::nn::detail
#endif
