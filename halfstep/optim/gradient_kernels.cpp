#include "halfstep/optim/gradient_kernels.h"

#include "halfstep/optim/for_each_chunk.h"

#include <atomic>

// Compiled once per kind of CPU; Highway picks one at run time. AVX2 and AVX-512 are what counts.
#define HWY_DISABLED_TARGETS HWY_SSSE3
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "halfstep/optim/gradient_kernels.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.h.
#include "halfstep/optim/element_io-inl.h"

HWY_BEFORE_NAMESPACE();
namespace halfstep::optim::detail::HWY_NAMESPACE {

// An inf or NaN has all bits of the exponent set, and only it is as large without its sign.
template <class T>
bool has_bits_from(const T* bits, std::int64_t size, T sign, T infinity) {
  const hn::ScalableTag<T> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const auto mask = hn::Set(d, static_cast<T>(~sign));
  auto largest = hn::Zero(d), other = hn::Zero(d);
  std::int64_t i = 0;
  for (; i + 2 * lanes <= size; i += 2 * lanes) {
    largest = hn::Max(largest, hn::And(hn::LoadU(d, bits + i), mask));
    other = hn::Max(other, hn::And(hn::LoadU(d, bits + i + lanes), mask));
  }
  HWY_ALIGN T lane[2 * hn::MaxLanes(hn::ScalableTag<T>())];
  hn::Store(largest, d, lane);
  hn::Store(other, d, lane + lanes);
  T result = 0;
  for (std::int64_t k = 0; k < 2 * lanes; ++k) result = HWY_MAX(result, lane[k]);
  for (; i < size; ++i) result = HWY_MAX(result, static_cast<T>(bits[i] & ~sign));
  return result >= infinity;
}

bool has_nonfinite(const KernelSpan& span, std::int64_t begin, std::int64_t end) {
  // Signed types: the sign bit is gone, and a signed maximum exists for every target.
  if (span.gradient_element == Element::float32)
    return has_bits_from<std::int32_t>(static_cast<const std::int32_t*>(span.gradient) + begin,
                                       end - begin, INT32_MIN, 0x7F800000);
  return has_bits_from<std::int16_t>(static_cast<const std::int16_t*>(span.gradient) + begin,
                                     end - begin, INT16_MIN,
                                     span.gradient_element == Element::bfloat16 ? 0x7F80 : 0x7C00);
}

double squares_of(const KernelSpan& span, std::int64_t begin, std::int64_t end) {
  const Floats d;
#if HWY_TARGET == HWY_SCALAR
  double sum = 0;
  for_each_vector(d, span, begin, end, [&](const KernelSpan& s, std::int64_t i) {
    const double g = hn::GetLane(load(d, s.gradient, i, s.gradient_element));
    sum += g * g;
  });
  return sum;
#else
  const hn::Repartition<double, Floats> wide;
  auto low = hn::Zero(wide), high = hn::Zero(wide);
  for_each_vector(d, span, begin, end, [&](const KernelSpan& s, std::int64_t i) {
    const auto g = load(d, s.gradient, i, s.gradient_element);
    const auto first = hn::PromoteTo(wide, hn::LowerHalf(g));
    const auto second = hn::PromoteTo(wide, hn::UpperHalf(hn::Half<Floats>(), g));
    low = hn::MulAdd(first, first, low);
    high = hn::MulAdd(second, second, high);
  });
  return hn::GetLane(hn::SumOfLanes(wide, hn::Add(low, high)));
#endif
}

}  // namespace halfstep::optim::detail::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace halfstep::optim::detail {

HWY_EXPORT(has_nonfinite);
HWY_EXPORT(squares_of);

namespace {
const auto size_of = [](const KernelSpan& span) { return span.size; };
}

bool any_nonfinite(const std::vector<KernelSpan>& spans) {
  std::atomic<bool> found = false;
  for_each_chunk(
      chunk_offsets(spans, size_of), [&](std::size_t span) { return spans[span].size; },
      [&](std::size_t span, std::int64_t, std::int64_t begin, std::int64_t end) {
        if (!found.load(std::memory_order_relaxed) &&
            HWY_DYNAMIC_DISPATCH(has_nonfinite)(spans[span], begin, end))
          found.store(true, std::memory_order_relaxed);
      });
  return found;
}

double sum_of_squares(const std::vector<KernelSpan>& spans) {
  const auto offsets = chunk_offsets(spans, size_of);
  std::vector<double> partial(static_cast<std::size_t>(offsets.back()));
  for_each_chunk(
      offsets, [&](std::size_t span) { return spans[span].size; },
      [&](std::size_t span, std::int64_t chunk, std::int64_t begin, std::int64_t end) {
        partial[static_cast<std::size_t>(chunk)] =
            HWY_DYNAMIC_DISPATCH(squares_of)(spans[span], begin, end);
      });
  double sum = 0;
  for (const double part : partial) sum += part;
  return sum;
}

}  // namespace halfstep::optim::detail
#endif
