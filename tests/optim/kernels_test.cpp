// Our own CPU kernels against the exact step in float64, for every kind of CPU they are compiled
// for.
#include "halfstep/optim/gradient_kernels.h"
#include "halfstep/optim/master_weights.h"
#include "halfstep/optim/span_of.h"
#include "halfstep/optim/step_kernels.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include <ATen/Parallel.h>
#include <torch/types.h>

#include "tests/support/tolerance.h"
#include <gtest/gtest.h>
#include <hwy/highway.h>
#include <hwy/targets.h>

namespace halfstep::testing {

namespace {

using optim::detail::AdagradRule;
using optim::detail::AdamRule;
using optim::detail::any_nonfinite;
using optim::detail::Element;
using optim::detail::KernelSpan;
using optim::detail::run_step;
using optim::detail::SgdRule;
using optim::detail::StepTask;
using optim::detail::sum_of_squares;

constexpr int64_t kSizes[] = {0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 64, 100, 1023};
constexpr c10::ScalarType kDtypes[] = {torch::kFloat, torch::kBFloat16, torch::kHalf};

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
at::Tensor values(int64_t size, c10::ScalarType dtype, unsigned seed, bool positive = false) {
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

/// The distance to the next value of the dtype away from zero.
double ulp(double value, c10::ScalarType dtype) {
  const int digits = dtype == torch::kFloat ? 23 : dtype == torch::kHalf ? 10 : 7;
  const int smallest = dtype == torch::kHalf ? -14 : -126;
  const int exponent = value == 0 ? smallest : std::max(std::ilogb(value), smallest);
  return std::ldexp(1.0, exponent - digits);
}

double worst = 0;

/// Three, and one more on CPUs that can't multiply and add with one rounding. Two for a parameter
/// that a step moves by half of itself at most, as steps of training do.
double allowed(double move = 1, double parameter = 0) {
  if (std::abs(move) <= std::abs(parameter) / 2) return 2;
  const auto target = hwy::SupportedTargets() & HWY_TARGETS;
  return (target & (HWY_AVX2 | HWY_AVX3)) != 0 ? 3 : 4;
}

/// `scale`: the largest number that was added up to it, whose ulp bounds the error.
void expect_near(double got, double exact, double scale, c10::ScalarType dtype, const char* what,
                 int64_t i, double limit = allowed()) {
  const double off = std::abs(got - exact) / ulp(std::max(std::abs(exact), scale), dtype);
  worst = std::max(worst, off);
  EXPECT_LE(off, limit) << what << " of element " << i << ": got " << got << ", exactly " << exact;
}

struct Memory {
  Memory(int64_t size, c10::ScalarType dtype, c10::ScalarType gradient_dtype, unsigned seed)
      : parameter(values(size, dtype, seed)),
        gradient(values(size, gradient_dtype, seed + 1)),
        buffers{Guarded(values(size, dtype, seed + 2)),
                Guarded(values(size, dtype, seed + 3, true)),
                Guarded(values(size, dtype, seed + 4, true))},
        low(torch::zeros({size}, torch::kBFloat16)) {}

  StepTask task(int used_buffers) {
    StepTask result;
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

/// Calls `check` with each dtype of parameter and gradient, size and target.
template <class Check>
void for_all(const Check& check) {
  worst = 0;
  on_each_target([&] {
    for (const auto dtype : kDtypes) {
      for (const auto gradient_dtype : kDtypes) {
        for (const auto size : kSizes) {
          SCOPED_TRACE(c10::str(dtype, ", gradient ", gradient_dtype, ", size ", size));
          check(dtype, gradient_dtype, size);
          if (::testing::Test::HasFailure()) return;
        }
      }
    }
  });
  ::testing::Test::RecordProperty("worst_ulp", std::to_string(worst));
  EXPECT_GT(worst, 0) << "exact throughout: nothing was computed";
}

/// The gradient as the rule makes it: rounded to float32, as unscaling rounds it.
double read(double gradient, const optim::detail::GradientRule& rule) {
  const double scaled = static_cast<float>(static_cast<float>(gradient) * rule.factor);
  return std::min(std::max(scaled, -double(rule.limit)), double(rule.limit));
}

}  // namespace

TEST(Kernels, AdamIsWithinThreeUlp) {
  for_all([](c10::ScalarType dtype, c10::ScalarType gradient_dtype, int64_t size) {
    for (const int variant : {0, 1, 2, 3, 4}) {
      SCOPED_TRACE(variant);
      const bool amsgrad = variant == 1, decoupled = variant == 2;
      const double decay = variant >= 2 ? 0.1 : 0, lr = 1e-2, beta1 = 0.9, beta2 = 0.99;
      const double eps = 1e-6, steps = variant == 4 ? 1000 : 3;
      const double root = std::sqrt(1 - std::pow(beta2, steps));
      const double rate = lr / (1 - std::pow(beta1, steps));
      Memory memory(size, dtype, gradient_dtype, 100 * variant);
      auto task = memory.task(amsgrad ? 3 : 2);
      task.gradient = {variant == 3 ? -0.3F : 0.125F, variant == 3 ? 0.05F : INFINITY};
      task.rule = AdamRule{float(beta1),
                           float(1 - beta1),
                           float(beta2),
                           float(1 - beta2),
                           float(rate * root),
                           float(eps * root),
                           float(decoupled ? 0 : decay),
                           float(decoupled ? 1 - lr * decay : 1)};
      const auto p0 = Memory::doubles(memory.parameter), g0 = Memory::doubles(memory.gradient);
      const auto m0 = Memory::doubles(memory.buffers[0]), v0 = Memory::doubles(memory.buffers[1]);
      const auto x0 = Memory::doubles(memory.buffers[2]);
      run_step({task});
      memory.expect_marks();
      const auto p1 = Memory::doubles(memory.parameter), m1 = Memory::doubles(memory.buffers[0]);
      const auto v1 = Memory::doubles(memory.buffers[1]), x1 = Memory::doubles(memory.buffers[2]);
      for (int64_t i = 0; i < size; ++i) {
        const double read_gradient = read(g0[i], task.gradient);
        const double added = decoupled ? 0 : decay * p0[i];
        const double g = read_gradient + added;
        const double m = beta1 * m0[i] + (1 - beta1) * g;
        const double v = beta2 * v0[i] + (1 - beta2) * g * g;
        const double x = amsgrad ? std::max(x0[i], v) : v;
        // From the state as it was rounded to float32 when stored: the next step starts from it
        // too.
        const bool full = dtype == torch::kFloat;
        const double update = rate * (full ? m1[i] : m) /
                              (std::sqrt(full ? (amsgrad ? x1[i] : v1[i]) : x) / root + eps);
        const double p = p0[i] * (decoupled ? 1 - lr * decay : 1) - update;
        const double g_scale = std::max(std::abs(read_gradient), std::abs(added));
        const double m_scale = std::max(std::abs(beta1 * m0[i]), (1 - beta1) * g_scale);
        expect_near(m1[i], m, m_scale, dtype, "exp_avg", i);
        expect_near(v1[i], v, (1 - beta2) * g_scale * g_scale, dtype, "exp_avg_sq", i);
        if (amsgrad) {
          expect_near(x1[i], x, (1 - beta2) * g_scale * g_scale, dtype, "max_exp_avg_sq", i);
        } else {
          EXPECT_EQ(x1[i], x0[i]) << "a buffer that is not used must not be written";
        }
        expect_near(p1[i], p, std::max(std::abs(p0[i]), std::abs(update)), dtype, "parameter", i,
                    allowed(update, p0[i]));
      }
      memory.expect_low_is_rounded();
    }
  });
}

TEST(Kernels, SgdIsWithinThreeUlp) {
  for_all([](c10::ScalarType dtype, c10::ScalarType gradient_dtype, int64_t size) {
    for (const int variant : {0, 1, 2, 3, 4}) {
      SCOPED_TRACE(variant);
      const bool has_momentum = variant > 0, first = variant == 2, nesterov = variant == 3;
      const double lr = 0.1, momentum = 0.9, fresh = variant == 1 ? 0.7 : 1;
      const double decay = variant >= 3 ? 0.1 : 0;
      Memory memory(size, dtype, gradient_dtype, 7 + 100 * variant);
      auto task = memory.task(has_momentum ? 1 : 0);
      task.gradient = {variant == 4 ? -3.0F : 0.25F, variant == 4 ? 0.05F : INFINITY};
      task.rule = SgdRule{float(lr), float(momentum), float(fresh), float(decay), nesterov, first};
      const auto p0 = Memory::doubles(memory.parameter), g0 = Memory::doubles(memory.gradient);
      const auto b0 = Memory::doubles(memory.buffers[0]);
      run_step({task});
      memory.expect_marks();
      memory.expect_low_is_rounded();
      const auto p1 = Memory::doubles(memory.parameter), b1 = Memory::doubles(memory.buffers[0]);
      for (int64_t i = 0; i < size; ++i) {
        const double read_gradient = read(g0[i], task.gradient);
        const double g = read_gradient + decay * p0[i];
        const double g_scale = std::max(std::abs(read_gradient), std::abs(decay * p0[i]));
        const double b = first ? g : momentum * b0[i] + fresh * g;
        const double b_scale = first ? g_scale : std::max(std::abs(momentum * b0[i]), g_scale);
        if (has_momentum) expect_near(b1[i], b, b_scale, dtype, "momentum_buffer", i);
        const double stored = dtype == torch::kFloat ? b1[i] : b;
        const double step = !has_momentum ? g : nesterov ? g + momentum * stored : stored;
        const double step_scale =
            nesterov ? std::max(g_scale, std::abs(momentum * stored)) : g_scale;
        expect_near(p1[i], p0[i] - lr * step,
                    std::max({std::abs(p0[i]), std::abs(lr * step), lr * step_scale}), dtype,
                    "parameter", i, allowed(lr * step_scale, p0[i]));
      }
    }
  });
}

TEST(Kernels, AdagradIsWithinThreeUlp) {
  for_all([](c10::ScalarType dtype, c10::ScalarType gradient_dtype, int64_t size) {
    for (const double decay : {0.0, 0.1}) {
      const double rate = 0.05, eps = 1e-6;
      Memory memory(size, dtype, gradient_dtype, 3);
      std::swap(memory.buffers[0].memory, memory.buffers[1].memory);  // sums are not negative
      std::swap(memory.buffers[0].inner, memory.buffers[1].inner);
      auto task = memory.task(1);
      task.gradient = {0.5F, INFINITY};
      task.rule = AdagradRule{float(rate), float(eps), float(decay)};
      const auto p0 = Memory::doubles(memory.parameter), g0 = Memory::doubles(memory.gradient);
      const auto s0 = Memory::doubles(memory.buffers[0]);
      run_step({task});
      memory.expect_marks();
      memory.expect_low_is_rounded();
      const auto p1 = Memory::doubles(memory.parameter), s1 = Memory::doubles(memory.buffers[0]);
      for (int64_t i = 0; i < size; ++i) {
        const double read_gradient = read(g0[i], task.gradient);
        const double g = read_gradient + decay * p0[i];
        const double g_scale = std::max(std::abs(read_gradient), std::abs(decay * p0[i]));
        const double s = s0[i] + g * g;
        expect_near(s1[i], s, g_scale * g_scale, dtype, "sum", i);
        const double root = std::sqrt(dtype == torch::kFloat ? s1[i] : s) + eps;
        // Below the least normal number g is rounded as coarsely as there, and eps blows that up.
        const double least = std::numeric_limits<float>::min();
        const double update = rate * std::max(g_scale, least) / root;
        expect_near(p1[i], p0[i] - rate * g / root, std::max(std::abs(p0[i]), update), dtype,
                    "parameter", i, allowed(update, p0[i]));
      }
    }
  });
}

TEST(Kernels, WithoutDecayAnInfiniteParameterStays) {
  on_each_target([] {
    for (const bool adam : {false, true}) {
      const auto parameter = torch::tensor({-INFINITY, 1.0F, INFINITY});
      const auto gradient = torch::zeros_like(parameter);
      const auto average = torch::zeros_like(parameter), square = torch::ones_like(parameter);
      StepTask task;
      optim::detail::set_gradient(task.span, gradient);
      task.span.parameter = parameter.mutable_data_ptr();
      if (adam) {
        task.span.buffers = {average.mutable_data_ptr(), square.mutable_data_ptr()};
        task.rule = AdamRule{0.9F, 0.1F, 0.99F, 0.01F, 0.1F, 1e-8F, 0, 1};
      } else {
        task.rule = SgdRule{0.1F, 0, 1, 0, false, false};
      }
      run_step({task});
      expect_same_bits(parameter, torch::tensor({-INFINITY, 1.0F, INFINITY}));
    }
  });
}

TEST(Kernels, LowCopiesAreRoundedAsLibTorchRounds) {
  on_each_target([] {
    for (const auto low_dtype : {torch::kBFloat16, torch::kHalf}) {
      // All kinds of numbers through a step of 0: the parameter is rounded, not moved.
      std::vector<float> numbers{0.0F,    -0.0F,    1.0F,        INFINITY,    -INFINITY, NAN,
                                 -NAN,    65504.0F, 65519.0F,    65520.0F,    1e-45F,    5.9e-8F,
                                 6.1e-5F, 3.4e38F,  1.00390625F, 1.01171875F, 2049.0F,   2051.0F};
      std::mt19937 random(1);
      for (int i = 0; i < 2000; ++i) {
        const uint32_t bits = random();
        float number = 0;
        std::memcpy(&number, &bits, 4);
        numbers.push_back(number);
      }
      const auto parameter = torch::tensor(numbers);
      const auto gradient = torch::zeros_like(parameter);
      const auto low = torch::zeros_like(parameter, torch::dtype(low_dtype));
      StepTask task;
      optim::detail::set_gradient(task.span, gradient);
      task.span.parameter = parameter.mutable_data_ptr();
      task.span.low = low.mutable_data_ptr();
      task.span.low_element = *optim::detail::element_of(low_dtype);
      task.rule = SgdRule{0, 0, 1, 0, false, false};
      const auto before = parameter.clone();
      run_step({task});
      const auto expected = before.to(low_dtype);
      expect_same_bits(torch::where(before.isnan(), 0, low),
                       torch::where(before.isnan(), 0, expected));
      EXPECT_TRUE(low.isnan().equal(before.isnan()));
    }
  });
}

namespace {

std::vector<int32_t> bits_of(const at::Tensor& floats) {
  const auto ints = floats.contiguous().view(torch::kInt);
  return {ints.const_data_ptr<int32_t>(), ints.const_data_ptr<int32_t>() + ints.numel()};
}

}  // namespace

TEST(Kernels, ASplitParameterIsTheFloat32OneToTheBit) {
  on_each_target([] {
    for (const auto gradient_dtype : kDtypes) {
      for (const auto size : kSizes) {
        SCOPED_TRACE(c10::str("gradient ", gradient_dtype, ", size ", size));
        Memory whole(size, torch::kFloat, gradient_dtype, 4), split = whole;
        for (auto* guarded :
             {&split.gradient, &split.buffers[0], &split.buffers[1], &split.buffers[2], &split.low})
          *guarded = Guarded(guarded->inner);
        // The bfloat16 numbers, moved off by less than half a unit in their last place.
        const auto upper = values(size, torch::kBFloat16, 4);
        const auto lower = torch::randint(0, 0x8000, {size}, torch::kShort);
        auto task = split.task(3);
        Guarded high(upper), remainder(lower);
        task.span.parameter = high.inner.mutable_data_ptr();
        task.span.element = Element::bfloat16;
        task.span.remainder = remainder.inner.mutable_data_ptr<int16_t>();
        task.span.low = nullptr;
        auto control = whole.task(3);
        for (int64_t i = 0; i < size; ++i) {
          const auto bits = (int32_t(upper.const_data_ptr<at::BFloat16>()[i].x) << 16) +
                            lower.const_data_ptr<int16_t>()[i];
          std::memcpy(whole.parameter.inner.mutable_data_ptr<float>() + i, &bits, 4);
        }
        task.gradient = control.gradient = {0.125F, INFINITY};
        for (const optim::detail::StepRule& rule :
             {optim::detail::StepRule(AdamRule{0.9F, 0.1F, 0.99F, 0.01F, 0.01F, 1e-8F, 0.1F, 0.9F}),
              {SgdRule{0.1F, 0.9F, 1, 0.1F, true, false}},
              {AdagradRule{0.01F, 1e-8F, 0.1F}}}) {
          task.rule = control.rule = rule;
          for (auto* memory : {&whole, &split}) memory->buffers[0].inner.abs_();  // Adagrad's sums
          run_step({task, control});
          EXPECT_FALSE(whole.parameter.inner.isnan().any().item<bool>());
          const auto expected = bits_of(whole.parameter.inner);
          for (int64_t i = 0; i < size; ++i) {
            const auto weight = high.inner.const_data_ptr<at::BFloat16>()[i].x;
            const auto rest = remainder.inner.const_data_ptr<int16_t>()[i];
            EXPECT_EQ((uint32_t(weight) << 16) + uint32_t(int32_t(rest)),
                      uint32_t(expected[size_t(i)]))
                << i;
            EXPECT_EQ(weight, (uint32_t(expected[size_t(i)]) + 0x8000) >> 16) << i;
          }
          for (int b = 0; b < 3; ++b)
            expect_same_bits(split.buffers[b].inner, whole.buffers[b].inner);
        }
        split.expect_marks();
        high.expect_marks();
        remainder.expect_marks();
      }
    }
  });
}

TEST(Kernels, AnyNumberComesBackFromItsHalves) {
  on_each_target([] {
    std::vector<float> numbers{0.0F,   -0.0F,   INFINITY,      -INFINITY,
                               NAN,    -NAN,    3.4028235e38F, -3.4028235e38F,
                               1e-45F, -1e-45F, 1.00390625F,   1.01171875F};
    std::mt19937 random(1);
    for (int i = 0; i < 5000; ++i) {
      const uint32_t bits = random();
      float number = 0;
      std::memcpy(&number, &bits, 4);
      numbers.push_back(number);
    }
    // A step of -1 times the gradient, from zero.
    const auto gradient = torch::tensor(numbers);
    const auto upper = torch::zeros_like(gradient, torch::kBFloat16);
    const auto remainder = torch::zeros_like(gradient, torch::kShort);
    StepTask task;
    optim::detail::set_gradient(task.span, gradient);
    task.span.parameter = upper.mutable_data_ptr();
    task.span.element = Element::bfloat16;
    task.span.remainder = remainder.mutable_data_ptr<int16_t>();
    task.rule = SgdRule{-1, 0, 1, 0, false, false};
    run_step({task});
    const auto nan = gradient.isnan();
    const auto back = optim::detail::join_master(upper, remainder);
    expect_same_bits(back.masked_fill(nan, 0), (gradient + 0).masked_fill(nan, 0));
    EXPECT_TRUE(back.isnan().equal(nan));
    // ATen's ops for other devices split alike.
    const auto upper_too = torch::zeros_like(upper), remainder_too = torch::zeros_like(remainder);
    optim::detail::split_master(gradient + 0, upper_too, remainder_too);
    expect_same_bits(upper_too.view(torch::kShort), upper.view(torch::kShort));
    expect_same_bits(remainder_too, remainder);
    expect_same_bits(optim::detail::join_master(upper_too, remainder_too), back);
  });
}

TEST(Kernels, AnInfOrNanIsFoundInEachPlace) {
  on_each_target([] {
    for (const auto dtype : kDtypes) {
      for (const int64_t size : {1, 7, 33, 100}) {
        const auto largest = dtype == torch::kHalf ? 65504.0 : 3e38;
        const auto clean = values(size, dtype, 5).fill_(largest);
        Guarded gradient(clean);
        gradient.memory[0] = NAN;  // outside
        gradient.memory[-1] = NAN;
        KernelSpan span;
        optim::detail::set_gradient(span, gradient.inner);
        EXPECT_FALSE(any_nonfinite({span}));
        EXPECT_TRUE(std::isfinite(sum_of_squares({span})));
        for (int64_t i = 0; i < size; ++i) {
          for (const double bad : {INFINITY, -INFINITY, NAN, -NAN}) {
            gradient.inner[i] = bad;
            EXPECT_TRUE(any_nonfinite({span})) << dtype << " " << size << " " << i << " " << bad;
            EXPECT_FALSE(std::isfinite(sum_of_squares({span})));
          }
          gradient.inner[i] = largest;
        }
      }
    }
  });
  EXPECT_FALSE(optim::detail::any_nonfinite({}));
}

TEST(Kernels, SquaresAddUpOverManySpans) {
  on_each_target([] {
    for (const auto dtype : kDtypes) {
      std::vector<at::Tensor> gradients;
      std::vector<KernelSpan> spans;
      double expected = 0;
      for (const int64_t size : {3, 0, 100, 20000, 1, 16384, 33}) {
        gradients.push_back(values(size, dtype, unsigned(size)));
        optim::detail::set_gradient(spans.emplace_back(), gradients.back());
        expected += gradients.back().to(torch::kDouble).square().sum().item<double>();
      }
      EXPECT_NEAR(sum_of_squares(spans) / expected, 1, 1e-12);
      EXPECT_FALSE(any_nonfinite(spans));
      gradients[3][19999] = INFINITY;
      EXPECT_TRUE(any_nonfinite(spans));
    }
  });
}

TEST(Kernels, TheSameBitsForAnyNumberOfThreadsAndAnyCut) {
  const int threads = at::get_num_threads();
  const auto run = [&](const std::vector<int64_t>& sizes) {
    const auto parameter = values(100000, torch::kFloat, 1),
               gradient = values(100000, torch::kFloat, 2);
    const auto m = values(100000, torch::kFloat, 3), v = values(100000, torch::kFloat, 4, true);
    std::vector<StepTask> tasks;
    std::vector<KernelSpan> spans;
    int64_t at = 0;
    for (const auto size : sizes) {
      const auto cut = [&](const at::Tensor& t) { return t.slice(0, at, at + size); };
      StepTask task;
      optim::detail::set_gradient(task.span, cut(gradient));
      task.span.parameter = cut(parameter).mutable_data_ptr();
      task.span.buffers = {cut(m).mutable_data_ptr(), cut(v).mutable_data_ptr(), nullptr};
      task.rule = AdamRule{0.9F, 0.1F, 0.99F, 0.01F, 0.01F, 1e-8F, 0.1F, 1};
      tasks.push_back(task);
      spans.push_back(task.span);
      at += size;
    }
    EXPECT_EQ(at, 100000);
    run_step(tasks);
    return std::pair(parameter, sum_of_squares(spans));
  };
  at::set_num_threads(1);
  const auto [one, one_sum] = run({100000});
  at::set_num_threads(2);
  const auto [two, two_sum] = run({100000});
  const auto cut = run({1, 2, 3, 99, 895, 50000, 49000}).first;
  at::set_num_threads(threads);
  expect_same_bits(two, one);
  expect_same_bits(cut, one);
  EXPECT_EQ(one_sum, two_sum);
}

}  // namespace halfstep::testing
