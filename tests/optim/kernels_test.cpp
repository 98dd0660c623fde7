// What else our own CPU kernels promise, for every kind of CPU they are compiled for.
#include "halfstep/optim/gradient_kernels.h"
#include "halfstep/optim/master_weights.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include <ATen/Parallel.h>

#include "tests/optim/kernel_memory.h"

namespace halfstep::testing {

using optim::detail::AdagradRule;
using optim::detail::AdamRule;
using optim::detail::any_nonfinite;
using optim::detail::Element;
using optim::detail::KernelSpan;
using optim::detail::run_step;
using optim::detail::SgdRule;
using optim::detail::StepTask;
using optim::detail::sum_of_squares;

namespace {

/// Float numbers below the least normal one as zero, with their sign.
at::Tensor as_kernels_read(const at::Tensor& floats) {
  return torch::where(floats.abs().lt(std::numeric_limits<float>::min()), floats * 0, floats);
}

}  // namespace

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
      const auto before = as_kernels_read(parameter);
      run_step({task});
      const auto expected = before.to(low_dtype);
      expect_same_bits(torch::where(before.isnan(), 0, low),
                       torch::where(before.isnan(), 0, expected));
      EXPECT_TRUE(low.isnan().equal(before.isnan()));
    }
  });
}

// Averages of weights that get no gradient any more end there.
TEST(Kernels, NumbersBelowTheLeastNormalOneCountAsZero) {
  const float least = std::numeric_limits<float>::min();
  volatile float half = 0.5F;
  on_each_target([&] {
    for (const int64_t size : {1, 64}) {
      const auto parameter = torch::ones({size}), gradient = torch::zeros({size});
      const auto average = torch::full({size}, 1.05F * least);
      const auto square = torch::full({size}, 1.005F * least);
      StepTask task;
      optim::detail::set_gradient(task.span, gradient);
      task.span.parameter = parameter.mutable_data_ptr();
      task.span.buffers = {average.mutable_data_ptr(), square.mutable_data_ptr()};
      task.rule = AdamRule{0.9F, 0.1F, 0.99F, 0.01F, 0.1F, 1e-8F, 0, 1};
      run_step({task});
      expect_same_bits(average, torch::zeros({size}));
      expect_same_bits(square, torch::zeros({size}));
      expect_same_bits(parameter, torch::ones({size}));
    }
    EXPECT_GT(least * half, 0) << "the caller's own arithmetic is as before";
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
    const auto whole = as_kernels_read(gradient) + 0;  // 0 - -1 * -0 is 0
    expect_same_bits(back.masked_fill(nan, 0), whole.masked_fill(nan, 0));
    EXPECT_TRUE(back.isnan().equal(nan));
    // ATen's ops for other devices split alike.
    const auto upper_too = torch::zeros_like(upper), remainder_too = torch::zeros_like(remainder);
    optim::detail::split_master(whole, upper_too, remainder_too);
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
