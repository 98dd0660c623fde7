// Our own CPU kernels against the exact step in float64, for every kind of CPU they are compiled
// for.
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "tests/optim/kernel_memory.h"

namespace halfstep::testing {

namespace {

using optim::detail::AdagradRule;
using optim::detail::AdamRule;
using optim::detail::run_step;
using optim::detail::SgdRule;

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

constexpr double least = std::numeric_limits<float>::min();

/// `scale`: the largest number that was added up to it, whose ulp bounds the error. `flushed`: what
/// may be missing because numbers below the least normal one count as zero.
void expect_near(double got, double exact, double scale, c10::ScalarType dtype, const char* what,
                 int64_t i, double limit = allowed(), double flushed = 4 * least) {
  const double off =
      std::max(std::abs(got - exact) - flushed, 0.0) / ulp(std::max(std::abs(exact), scale), dtype);
  worst = std::max(worst, off);
  EXPECT_LE(off, limit) << what << " of element " << i << ": got " << got << ", exactly " << exact;
}

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
                    allowed(update, p0[i]), least * (2 + rate / eps));
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
        const double update = rate * g_scale / root;
        expect_near(p1[i], p0[i] - rate * g / root, std::max(std::abs(p0[i]), update), dtype,
                    "parameter", i, allowed(update, p0[i]), least * (2 + 2 * rate / root));
      }
    }
  });
}

}  // namespace halfstep::testing
