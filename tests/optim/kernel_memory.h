#pragma once
#include "halfstep/optim/span_of.h"
#include "halfstep/optim/step_kernels.h"

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include <torch/types.h>

#include "tests/support/tolerance.h"
#include <gtest/gtest.h>
#include <hwy/highway.h>
#include <hwy/targets.h>

/// What the tests of the CPU kernels work on.
namespace halfstep::testing {

inline constexpr int64_t kSizes[] = {0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 64, 100, 1023};
inline constexpr c10::ScalarType kDtypes[] = {torch::kFloat, torch::kBFloat16, torch::kHalf};

/// Runs the body once with each kind of CPU that this one can act as.
template <class Body>
void on_each_target(const Body& body) {
  int targets = 0;
  for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
    SCOPED_TRACE(hwy::TargetName(target));
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    body();
    ++targets;
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  EXPECT_GE(targets, 2) << "the vectors and the one without vectors must both have run";
}

/// Values of many magnitudes, with zeros and subnormals among them.
inline at::Tensor values(int64_t size, c10::ScalarType dtype, unsigned seed,
                         bool positive = false) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  std::uniform_real_distribution<double> magnitude(-4, 1);
  std::vector<double> result;
  for (int64_t i = 0; i < size; ++i) {
    double value = normal(random) * std::pow(10, magnitude(random));
    if (i % 11 == 3) value = 0;
    if (i % 13 == 5) value = std::ldexp(value, dtype == torch::kHalf ? -20 : -130);
    result.push_back(positive ? std::abs(value) : value);
  }
  return torch::tensor(result, torch::kDouble).to(dtype);
}

/// A tensor that begins one element into its memory, with marks before and behind.
struct Guarded {
  explicit Guarded(const at::Tensor& content)
      : memory(torch::full({content.numel() + 2}, 42, content.options())),
        inner(memory.slice(0, 1, content.numel() + 1)) {
    inner.copy_(content);
  }
  void expect_marks() const {
    EXPECT_EQ(memory[0].item<double>(), 42);
    EXPECT_EQ(memory[-1].item<double>(), 42);
  }
  at::Tensor memory, inner;
};

/// The memory of one parameter's step, and marks around each part of it.
struct Memory {
  Memory(int64_t size, c10::ScalarType dtype, c10::ScalarType gradient_dtype, unsigned seed)
      : parameter(values(size, dtype, seed)),
        gradient(values(size, gradient_dtype, seed + 1)),
        buffers{Guarded(values(size, dtype, seed + 2)),
                Guarded(values(size, dtype, seed + 3, true)),
                Guarded(values(size, dtype, seed + 4, true))},
        low(torch::zeros({size}, torch::kBFloat16)) {}

  optim::detail::StepTask task(int used_buffers) {
    optim::detail::StepTask result;
    auto& span = result.span;
    optim::detail::set_gradient(span, gradient.inner);
    span.parameter = parameter.inner.mutable_data_ptr();
    span.element = *optim::detail::element_of(parameter.inner.scalar_type());
    span.buffer_element = span.element;
    for (int i = 0; i < used_buffers; ++i) span.buffers[i] = buffers[i].inner.mutable_data_ptr();
    span.low = low.inner.mutable_data_ptr();
    return result;
  }
  void expect_marks() const {
    for (const auto* guarded : {&parameter, &gradient, &buffers[0], &buffers[1], &buffers[2], &low})
      guarded->expect_marks();
  }
  /// Of a 16-bit parameter the copy is rounded from the float32 it was rounded from, too.
  void expect_low_is_rounded() const {
    if (parameter.inner.scalar_type() == torch::kFloat)
      expect_same_bits(low.inner, parameter.inner.to(torch::kBFloat16));
    else if (parameter.inner.scalar_type() == torch::kBFloat16)
      expect_same_bits(low.inner, parameter.inner);
  }
  static std::vector<double> doubles(const Guarded& guarded) {
    const auto wide = guarded.inner.to(torch::kDouble).contiguous();
    return {wide.const_data_ptr<double>(), wide.const_data_ptr<double>() + wide.numel()};
  }

  Guarded parameter, gradient;
  Guarded buffers[3];
  Guarded low;
};

}  // namespace halfstep::testing
