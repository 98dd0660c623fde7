#include "halfstep/optim/step_kernels.h"

#include "halfstep/optim/flush_subnormals.h"
#include "halfstep/optim/for_each_chunk.h"

#include <cmath>
#include <limits>

// Compiled once per kind of CPU; Highway picks one at run time. AVX2 and AVX-512 are what counts.
#define HWY_DISABLED_TARGETS HWY_SSSE3
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "halfstep/optim/step_kernels.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.h.
#include "halfstep/optim/element_io-inl.h"

HWY_BEFORE_NAMESPACE();
namespace halfstep::optim::detail::HWY_NAMESPACE {

/// Reads a gradient as the rule wants it.
class GradientReader {
 public:
  GradientReader(Floats d, const GradientRule& rule)
      : d_(d),
        factor_(hn::Set(d, rule.factor)),
        limit_(hn::Set(d, rule.limit)),
        clips_(rule.limit < std::numeric_limits<float>::infinity()) {}

  HWY_INLINE Vec operator()(const KernelSpan& span, std::int64_t i) const {
    const auto gradient = hn::Mul(load(d_, span.gradient, i, span.gradient_element), factor_);
    if (HWY_LIKELY(!clips_)) return gradient;
    // Comparisons, not Min and Max: NaN must stay NaN.
    const auto below = hn::Neg(limit_);
    const auto capped = hn::IfThenElse(hn::Gt(gradient, limit_), limit_, gradient);
    return hn::IfThenElse(hn::Lt(capped, below), below, capped);
  }

 private:
  Floats d_;
  Vec factor_, limit_;
  bool clips_;
};

HWY_INLINE Vec load_parameter(Floats d, const KernelSpan& span, std::int64_t i) {
  if (HWY_LIKELY(span.remainder == nullptr)) return load(d, span.parameter, i, span.element);
  return load_split(d, static_cast<const std::uint16_t*>(span.parameter) + i, span.remainder + i);
}

// Without decay nothing is added: 0 times an infinite parameter is NaN.
HWY_INLINE Vec decayed(bool decays, Vec decay, Vec parameter, Vec gradient) {
  return decays ? hn::MulAdd(decay, parameter, gradient) : gradient;
}

HWY_INLINE void store_parameter(Floats d, Vec value, const KernelSpan& span, std::int64_t i) {
  if (HWY_UNLIKELY(span.remainder != nullptr))
    return store_split(d, value, static_cast<std::uint16_t*>(span.parameter) + i,
                       span.remainder + i);
  store(d, value, span.parameter, i, span.element);
  if (span.low != nullptr) store(d, value, span.low, i, span.low_element);
}

void adam_span(const KernelSpan& whole, const GradientRule& gradient_rule, const AdamRule& rule,
               std::int64_t begin, std::int64_t end) {
  const Floats d;
  const GradientReader gradient_of(d, gradient_rule);
  const auto beta1 = hn::Set(d, rule.beta1), rest1 = hn::Set(d, rule.one_minus_beta1);
  const auto beta2 = hn::Set(d, rule.beta2), rest2 = hn::Set(d, rule.one_minus_beta2);
  const auto rate = hn::Set(d, rule.rate), eps = hn::Set(d, rule.eps);
  const auto decay = hn::Set(d, rule.decay), shrink = hn::Set(d, rule.shrink);
  const bool decays = rule.decay != 0;
  for_each_vector(d, whole, begin, end, [&](const KernelSpan& span, std::int64_t i) {
    auto parameter = load_parameter(d, span, i);
    const auto gradient = decayed(decays, decay, parameter, gradient_of(span, i));
    parameter = hn::Mul(parameter, shrink);
    const auto average = hn::MulAdd(beta1, load(d, span.buffers[0], i, span.buffer_element),
                                    hn::Mul(rest1, gradient));
    auto square = hn::MulAdd(beta2, load(d, span.buffers[1], i, span.buffer_element),
                             hn::Mul(hn::Mul(rest2, gradient), gradient));
    store(d, average, span.buffers[0], i, span.buffer_element);
    store(d, square, span.buffers[1], i, span.buffer_element);
    if (span.buffers[2] != nullptr) {
      const auto largest = load(d, span.buffers[2], i, span.buffer_element);
      square = hn::IfThenElse(hn::Ge(largest, square), largest, square);  // a NaN square stays
      store(d, square, span.buffers[2], i, span.buffer_element);
    }
    // The division first: rate times a tiny average could fall below float32's range.
    const auto step = hn::Div(average, hn::Add(hn::Sqrt(square), eps));
    store_parameter(d, hn::NegMulAdd(rate, step, parameter), span, i);
  });
}

void sgd_span(const KernelSpan& whole, const GradientRule& gradient_rule, const SgdRule& rule,
              std::int64_t begin, std::int64_t end) {
  const Floats d;
  const GradientReader gradient_of(d, gradient_rule);
  const auto rate = hn::Set(d, rule.rate), decay = hn::Set(d, rule.decay);
  const bool decays = rule.decay != 0;
  const auto momentum = hn::Set(d, rule.momentum), fresh = hn::Set(d, rule.one_minus_dampening);
  for_each_vector(d, whole, begin, end, [&](const KernelSpan& span, std::int64_t i) {
    const auto parameter = load_parameter(d, span, i);
    auto direction = decayed(decays, decay, parameter, gradient_of(span, i));
    if (span.buffers[0] != nullptr) {
      auto buffer = direction;
      if (!rule.is_first_step)
        buffer = hn::MulAdd(momentum, load(d, span.buffers[0], i, span.buffer_element),
                            hn::Mul(fresh, direction));
      store(d, buffer, span.buffers[0], i, span.buffer_element);
      direction = rule.nesterov ? hn::MulAdd(momentum, buffer, direction) : buffer;
    }
    store_parameter(d, hn::NegMulAdd(rate, direction, parameter), span, i);
  });
}

void adagrad_span(const KernelSpan& whole, const GradientRule& gradient_rule,
                  const AdagradRule& rule, std::int64_t begin, std::int64_t end) {
  const Floats d;
  const GradientReader gradient_of(d, gradient_rule);
  const auto rate = hn::Set(d, rule.rate), eps = hn::Set(d, rule.eps);
  const auto decay = hn::Set(d, rule.decay);
  const bool decays = rule.decay != 0;
  for_each_vector(d, whole, begin, end, [&](const KernelSpan& span, std::int64_t i) {
    const auto parameter = load_parameter(d, span, i);
    const auto gradient = decayed(decays, decay, parameter, gradient_of(span, i));
    const auto sum =
        hn::MulAdd(gradient, gradient, load(d, span.buffers[0], i, span.buffer_element));
    store(d, sum, span.buffers[0], i, span.buffer_element);
    const auto step = hn::Div(gradient, hn::Add(hn::Sqrt(sum), eps));
    store_parameter(d, hn::NegMulAdd(rate, step, parameter), span, i);
  });
}

}  // namespace halfstep::optim::detail::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace halfstep::optim::detail {

HWY_EXPORT(adam_span);
HWY_EXPORT(sgd_span);
HWY_EXPORT(adagrad_span);

namespace {

constexpr float kLeastNormal = std::numeric_limits<float>::min();

struct RunChunk {
  const StepTask& task;
  std::int64_t begin, end;

  void operator()(const AdamRule& rule) const {
    HWY_DYNAMIC_DISPATCH(adam_span)(task.span, task.gradient, rule, begin, end);
  }
  void operator()(const SgdRule& rule) const {
    HWY_DYNAMIC_DISPATCH(sgd_span)(task.span, task.gradient, rule, begin, end);
  }
  void operator()(const AdagradRule& rule) const {
    HWY_DYNAMIC_DISPATCH(adagrad_span)(task.span, task.gradient, rule, begin, end);
  }
};

}  // namespace

void run_step(const std::vector<StepTask>& tasks) {
  const auto offsets = chunk_offsets(tasks, [](const StepTask& task) { return task.span.size; });
  for_each_chunk(
      offsets, [&](std::size_t task) { return tasks[task].span.size; },
      [&](std::size_t task, std::int64_t, std::int64_t begin, std::int64_t end) {
        // A factor that clips a huge norm can itself be as small.
        const FlushSubnormals flush(!(std::abs(tasks[task].gradient.factor) < kLeastNormal));
        std::visit(RunChunk{tasks[task], begin, end}, tasks[task].rule);
      });
}

}  // namespace halfstep::optim::detail
#endif
