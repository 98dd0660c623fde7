#include "halfstep/autocast/autocast.h"
#include "halfstep/autocast/propagate.h"

#include <atomic>
#include <memory>
#include <stdexcept>
#include <thread>

#include <ATen/autocast_mode.h>
#include <torch/torch.h>

#include "tests/autocast/cast_counter.h"
#include "tests/autocast/deep_backward.h"
#include "tests/support/devices.h"
#include "tests/support/tolerance.h"

namespace halfstep {

namespace {

struct Seen {
  bool enabled = false;
  c10::ScalarType dtype = torch::kFloat;
  bool cache_enabled = false;
  bool grad_enabled = false;
  std::thread::id thread;
};

Seen look(c10::DeviceType device_type) {
  return {at::autocast::is_autocast_enabled(device_type),
          at::autocast::get_autocast_dtype(device_type), at::autocast::is_autocast_cache_enabled(),
          torch::GradMode::is_enabled(), std::this_thread::get_id()};
}

template <class Function>
void on_thread(Function&& function) {
  std::thread(std::forward<Function>(function)).join();
}

}  // namespace

class AutocastThreads : public testing::DeviceTest {
 protected:
  // A 16-bit dtype that is not the device's default, so that it can't be right by accident.
  c10::ScalarType other_dtype() const {
    return GetParam() == torch::kCUDA ? torch::kBFloat16 : torch::kHalf;
  }
  AutocastOptions options() const { return AutocastOptions(GetParam()).dtype(other_dtype()); }
};
HALFSTEP_ON_EACH_DEVICE(AutocastThreads);

TEST_P(AutocastThreads, APlainThreadHasNoAutocast) {
  const Autocast autocast(options());
  Seen seen;
  seen.enabled = true;
  on_thread([&] { seen = look(GetParam()); });
  EXPECT_FALSE(seen.enabled);
}

TEST_P(AutocastThreads, PropagateCarriesTheState) {
  Seen seen, after;
  {
    const Autocast autocast(options().cache_enabled(false));
    const torch::NoGradGuard no_grad;
    on_thread([&, work = propagate([&] { seen = look(GetParam()); })] {
      work();
      after = look(GetParam());
    });
  }
  EXPECT_TRUE(seen.enabled);
  EXPECT_EQ(seen.dtype, other_dtype());
  EXPECT_FALSE(seen.cache_enabled);
  EXPECT_FALSE(seen.grad_enabled);
  EXPECT_FALSE(after.enabled);
  EXPECT_NE(after.dtype, other_dtype());
  EXPECT_TRUE(after.cache_enabled);
  EXPECT_TRUE(after.grad_enabled);
}

TEST_P(AutocastThreads, PropagateTakesTheStateWhenItIsCalled) {
  auto work = [&] {
    const Autocast autocast(options());
    return propagate([&] { return look(GetParam()); });
  }();
  Seen seen;
  on_thread([&] { seen = work(); });
  EXPECT_TRUE(seen.enabled);
  EXPECT_EQ(seen.dtype, other_dtype());
}

TEST_P(AutocastThreads, PropagateForwardsArgumentsAndResults) {
  const auto add = propagate([](std::unique_ptr<int> a, int& b) -> int& {
    b += *a;
    return b;
  });
  int total = 1;
  int& result = add(std::make_unique<int>(2), total);
  EXPECT_EQ(&result, &total);
  EXPECT_EQ(total, 3);
}

TEST_P(AutocastThreads, PropagateTakesWorkThatChangesItself) {
  auto count = propagate([calls = 0]() mutable { return ++calls; });
  EXPECT_EQ(count(), 1);
  EXPECT_EQ(count(), 2);
  static_assert(!std::is_invocable_v<const decltype(count)&>);
}

// The cast cache knows no dtype: with the caller's casts in it, a product of two dtypes throws.
TEST_P(AutocastThreads, PropagatedWorkOfAnotherDtypeSharesAWeight) {
  const auto x = torch::randn({2, 4}, device());
  const auto weight = torch::randn({3, 4}, device()).requires_grad_();
  const auto product = [&](c10::ScalarType dtype) {
    const Autocast off(AutocastOptions(GetParam()).enabled(false));
    return at::linear(x.to(dtype), weight.detach().to(dtype));
  };
  const auto other = [&] {
    const Autocast autocast(options());
    return propagate([&] { return at::linear(x, weight); });
  }();
  const auto plain = propagate([&] { return at::linear(x, weight); });

  const Autocast autocast(GetParam());
  ASSERT_NE(autocast.dtype(), other_dtype());
  for (int round = 0; round < 2; ++round) {
    testing::expect_same_bits(at::linear(x, weight), product(autocast.dtype()));
    testing::expect_same_bits(other(), product(other_dtype()));
    testing::expect_same_bits(at::linear(x, weight), product(autocast.dtype()));
    torch::Tensor joined;
    on_thread([&] { joined = other(); });
    testing::expect_same_bits(joined, product(other_dtype()));
    testing::expect_same_bits(at::linear(x, weight), product(autocast.dtype()));
    testing::expect_same_bits(plain(), product(torch::kFloat));
  }
}

TEST_P(AutocastThreads, PropagatedWorkUsesTheCastsOfItsOwnRegion) {
  const auto x = torch::randn({2, 4}, device());
  const auto weight = torch::randn({3, 4}, device()).requires_grad_();
  const testing::CastCounter casts(weight);
  const Autocast autocast(GetParam());
  const auto work = propagate([&] { at::linear(x, weight); });
  at::linear(x, weight);
  work();
  at::linear(x, weight);
  EXPECT_EQ(casts.count(), 1);
}

TEST_P(AutocastThreads, PropagateRestoresStateWhenAnExceptionPasses) {
  const auto work = [&] {
    const Autocast autocast(options().cache_enabled(false));
    return propagate([] { throw std::runtime_error("from the work"); });
  }();
  EXPECT_THROW(work(), std::runtime_error);
  EXPECT_FALSE(at::autocast::is_autocast_enabled(GetParam()));
  EXPECT_TRUE(at::autocast::is_autocast_cache_enabled());
}

// The worker outlives the region it came from: its cast must not outlive the worker.
TEST_P(AutocastThreads, PropagateLeavesNoStaleWeights) {
  const auto x = torch::ones({2, 4}, device());
  auto weight = torch::ones({3, 4}, device()).requires_grad_();
  const auto work = [&] {
    const Autocast autocast(options());
    return propagate([&] { return at::linear(x, weight); });
  }();
  torch::Tensor y;
  {
    const testing::CastCounter casts(weight);
    on_thread([&] { y = work(); });
    ASSERT_EQ(y.scalar_type(), other_dtype());
    ASSERT_EQ(casts.count(), 1);
  }
  {
    const torch::NoGradGuard no_grad;
    weight.mul_(2);
  }
  // Only the flag: a region of ours would start from an empty cache anyhow.
  at::autocast::set_autocast_enabled(GetParam(), true);
  const auto again = at::linear(x, weight);
  at::autocast::set_autocast_enabled(GetParam(), false);
  at::autocast::clear_cache();
  EXPECT_TRUE(again.eq(8).all().item<bool>());
}

TEST_P(AutocastThreads, RegionsNestInsidePropagatedWork) {
  const auto x = torch::randn({2, 4}, device());
  const auto weight = torch::randn({3, 4}, device()).requires_grad_();
  const auto work = [&] {
    const Autocast autocast(options());
    return propagate([&] {
      const testing::CastCounter casts(weight);
      at::linear(x, weight);
      {
        const Autocast same(GetParam());
        EXPECT_EQ(at::linear(x, weight).scalar_type(), other_dtype());
      }
      at::linear(x, weight);
      EXPECT_EQ(casts.count(), 1);
      {
        const Autocast off(AutocastOptions(GetParam()).enabled(false));
        EXPECT_EQ(at::linear(x, weight).scalar_type(), torch::kFloat);
      }
    });
  }();
  on_thread(work);
}

TEST_P(AutocastThreads, ThreadsUseOneWeightAtTheSameTime) {
  const auto x = torch::randn({16, 4}, device());
  const auto weight = torch::randn({3, 4}, device()).requires_grad_();
  const auto expected = at::linear(x.to(other_dtype()), weight.to(other_dtype()));
  std::atomic<int> wrong = 0;
  {
    const Autocast autocast(options());
    const auto work = propagate([&] {
      for (int i = 0; i < 50; ++i) {
        const Autocast region(options());
        if (!at::linear(x, weight).equal(expected)) ++wrong;
      }
    });
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) threads.emplace_back(work);
    for (auto& thread : threads) thread.join();
  }
  EXPECT_EQ(wrong, 0);
}

TEST_P(AutocastThreads, StateReachesAutogradThreads) {
  const Autocast autocast(options());
  Seen seen;
  testing::DeepBackward::run([&] { seen = look(GetParam()); }, device());
  EXPECT_NE(seen.thread, std::this_thread::get_id());
  EXPECT_TRUE(seen.enabled);
  EXPECT_EQ(seen.dtype, other_dtype());
}

// index_put's backward promotes: it needs the region's dtype on autograd's thread.
TEST_P(AutocastThreads, BackwardOfIndexPutInsideTheRegion) {
  const Autocast autocast(options());
  const auto tensor_options = torch::dtype(other_dtype()).device(device());
  const auto values = torch::randn({3, 4, 5}, tensor_options).requires_grad_();
  const auto index = torch::randint(0, 3, {3, 4, 5}, torch::dtype(torch::kLong).device(device()));
  const auto y = torch::index_put(values, {index}, torch::randn({1}, tensor_options));
  y.mean().backward();
  EXPECT_EQ(values.grad().scalar_type(), other_dtype());
}

}  // namespace halfstep
