#include "halfstep/autocast/autocast.h"
#include "halfstep/autocast/propagate.h"
#include "halfstep/autocast/region_cast_cache.h"
#include "halfstep/optim/adam.h"
#include "halfstep/scaling/grad_scaler.h"

#include <fstream>
#include <thread>

#include <torch/torch.h>

#include "tests/autocast/cast_counter.h"
#include "tests/support/devices.h"
#include "tests/support/tolerance.h"
#include <unistd.h>

namespace halfstep {

using testing::CastCounter;
using testing::expect_same_bits;

class PolicyCache : public testing::DeviceTest {
 protected:
  void SetUp() override {
    testing::DeviceTest::SetUp();
    if (IsSkipped()) return;
    torch::manual_seed(1);
    x = torch::randn({8, 4}, device());
    weight = torch::randn({3, 4}, device()).requires_grad_();
  }
  AutocastOptions region(c10::ScalarType dtype = torch::kBFloat16) const {
    return AutocastOptions(GetParam()).dtype(dtype).policy(OpPolicy::torch(GetParam()));
  }
  /// Whether linear sees the weight as it is.
  void expect_current() const {
    expect_same_bits(at::linear(x, weight).detach(),
                     at::linear(x.to(torch::kBFloat16), weight.detach().to(torch::kBFloat16)));
  }

  torch::Tensor x;
  torch::Tensor weight;
};
HALFSTEP_ON_EACH_DEVICE(PolicyCache);

TEST_P(PolicyCache, CastsAWeightOncePerRegion) {
  for (int time = 0; time < 2; ++time) {
    const CastCounter casts(weight);
    const Autocast autocast(region());
    for (int use = 0; use < 3; ++use) at::linear(x, weight);
    EXPECT_EQ(casts.count(), 1);
  }
}

// What stock autocast casts at each use: the view that torch::nn::Linear passes.
TEST_P(PolicyCache, SeesTheWeightBehindATransposedView) {
  const CastCounter casts(weight);
  torch::Tensor loss;
  {
    const Autocast autocast(region());
    for (int use = 0; use < 3; ++use) {
      const auto part = at::mm(x * (use + 0.7), weight.t()).to(torch::kFloat).square().sum();
      loss = use == 0 ? part : loss + part;
    }
    at::linear(x, weight);
  }
  EXPECT_EQ(casts.count(), 1);
  loss.backward();
  const auto gradient = weight.grad().clone();
  weight.mutable_grad() = torch::Tensor();
  {
    const Autocast stock(AutocastOptions(GetParam()).dtype(torch::kBFloat16));
    for (int use = 0; use < 3; ++use) {
      const auto part = at::mm(x * (use + 0.7), weight.t()).to(torch::kFloat).square().sum();
      loss = use == 0 ? part : loss + part;
    }
  }
  loss.backward();
  EXPECT_GT(gradient.abs().sum().item<float>(), 0);
  expect_same_bits(gradient, weight.grad());
}

TEST_P(PolicyCache, KeepsDtypesApart) {
  const CastCounter casts(weight);
  const Autocast outer(region());
  EXPECT_EQ(at::linear(x, weight).scalar_type(), torch::kBFloat16);
  {
    const Autocast inner(AutocastOptions(GetParam()).dtype(torch::kHalf));
    EXPECT_EQ(at::linear(x, weight).scalar_type(), torch::kHalf);
  }
  EXPECT_EQ(at::linear(x, weight).scalar_type(), torch::kBFloat16);
}

TEST_P(PolicyCache, SeesAWeightChangedInPlace) {
  const Autocast autocast(region());
  expect_current();
  {
    const torch::NoGradGuard no_grad;
    weight.mul_(2);
  }
  expect_current();
  weight.set_data(weight.detach() * 3);
  expect_current();
}

// Neither a new version nor, where freed memory is handed out again, a new address.
TEST_P(PolicyCache, SeesAWeightGivenOtherMemory) {
  weight = torch::randn({64, 64}, device()).requires_grad_();
  x = torch::randn({2, 64}, device());
  const Autocast autocast(region());
  for (int i = 0; i < 20; ++i) {
    expect_current();
    weight.set_data(weight.detach() * 3);
    weight.set_data(weight.detach() / 2);
  }
  expect_current();
  weight.set_data(weight.detach().t());
  expect_current();
}

TEST_P(PolicyCache, TakesAViewForItsWeightOnlyWhereItIs) {
  const Autocast autocast(region());
  at::linear(x, weight);
  const auto view = weight.t();
  const auto before = at::mm(x, view);
  weight.set_data(weight.detach() * 3);
  at::linear(x, weight);
  expect_same_bits(at::mm(x, view), before);

  auto watched = weight.t();
  watched.retain_grad();
  int calls = 0;
  auto hooked = weight.t();
  hooked.register_hook([&](const at::Tensor&) { ++calls; });
  (at::mm(x, watched) + at::mm(x, hooked)).to(torch::kFloat).sum().backward();
  EXPECT_TRUE(watched.grad().defined());
  EXPECT_EQ(calls, 1);
}

TEST_P(PolicyCache, LeavesSparseWeightsToLibTorch) {
  HALFSTEP_REQUIRE_TRUE_CUDA("sparse tensors");
  const auto sparse = torch::eye(4, device()).to_sparse().requires_grad_();
  const auto dense = torch::randn({4, 4}, device());
  const auto expected = [&] {
    const Autocast stock(AutocastOptions(GetParam()).dtype(torch::kBFloat16));
    return at::mm(sparse, dense);
  }();
  const Autocast autocast(region());
  expect_same_bits(at::mm(sparse, dense), expected);
  EXPECT_EQ(expected.scalar_type(), torch::kBFloat16);
}

// Their kernels bump no version, so they say that the weight changed.
TEST_P(PolicyCache, IsClearedByScalerAndOptimizers) {
  optim::Adam adam({weight}, optim::AdamOptions(0.1));
  torch::optim::SGD sgd({weight}, 0.5);
  GradScaler scaler(GradScalerOptions(GetParam()).init_scale(4));
  const Autocast autocast(region());
  expect_current();
  const auto before = weight.detach().clone();
  weight.mutable_grad() = torch::ones_like(weight);
  adam.step();
  ASSERT_FALSE(weight.equal(before));
  expect_current();
  // LibTorch's SGD writes through .data(): the scaler's step is what tells.
  scaler.scale(at::linear(x, weight).to(torch::kFloat).sum()).backward();
  const auto between = weight.detach().clone();
  scaler.step(sgd);
  scaler.update();
  ASSERT_FALSE(weight.equal(between));
  expect_current();
}

TEST_P(PolicyCache, GoesOffWithTheCacheFlag) {
  const CastCounter casts(weight);
  const Autocast autocast(region().cache_enabled(false));
  for (int use = 0; use < 3; ++use) at::linear(x, weight);
  EXPECT_EQ(casts.count(), 3);
}

TEST_P(PolicyCache, KeepsGradientsOfACastMadeWithoutThem) {
  const Autocast autocast(region());
  {
    const torch::NoGradGuard no_grad;
    at::linear(x, weight);
  }
  {
    const c10::InferenceMode inference;
    at::linear(x, weight);
  }
  const CastCounter casts(weight);
  at::linear(x, weight).to(torch::kFloat).sum().backward();
  EXPECT_EQ(casts.count(), 0);
  EXPECT_GT(weight.grad().abs().sum().item<float>(), 0);
}

TEST_P(PolicyCache, ServesSeveralThreadsOfOneRegion) {
  const CastCounter casts(weight);
  const Autocast autocast(region());
  const auto expected = at::linear(x, weight).detach();
  std::atomic<int> right = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, carried = at::ThreadLocalState()] {
      const at::ThreadLocalStateGuard state(carried);
      for (int use = 0; use < 50; ++use) right += at::linear(x, weight).equal(expected);
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(right, 200);
  EXPECT_EQ(casts.count(), 1);
}

TEST_P(PolicyCache, KeepsNothingAfterTheRegion) {
  detail::RegionCastCache cache;
  EXPECT_EQ(cache.cast(weight, torch::kBFloat16).scalar_type(), torch::kBFloat16);
  cache.cast(weight, torch::kHalf);
  cache.cast(weight * 2, torch::kHalf);
  EXPECT_EQ(cache.size(), 2) << "one weight in two dtypes; results are not kept";
  cache.close();
  EXPECT_EQ(cache.size(), 0);
  cache.cast(weight, torch::kHalf);
  EXPECT_EQ(cache.size(), 0);
}

// A weight that died leaves no cast for the one that gets its address.
TEST_P(PolicyCache, KnowsAWeightFromItsSuccessor) {
  const Autocast autocast(region());
  for (int i = 0; i < 20; ++i) {
    weight = (torch::ones({3, 4}, device()) * i).requires_grad_();
    expect_current();
  }
}

namespace {

int64_t resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  int64_t total = 0;
  int64_t resident = 0;
  statm >> total >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

}  // namespace

// 10,000 regions, each of which casts 1 MiB of weight: one kept cast in a hundred would show.
TEST(PolicyCacheMemory, DoesNotGrowWithTheNumberOfRegions) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "SKIPPED, NOTHING WAS TESTED: the address sanitizer keeps what is freed";
#endif
  const auto weight = torch::randn({512, 512}).requires_grad_();
  const auto x = torch::randn({1, 512});
  const auto policy = OpPolicy::torch(torch::kCPU);
  const auto run = [&](int regions) {
    for (int i = 0; i < regions; ++i) {
      const Autocast autocast(AutocastOptions(torch::kCPU).policy(policy));
      // The view's cast and the weight's own.
      const auto y = at::mm(x, weight.t());
      if (i % 1000 == 0) at::linear(x, weight).to(torch::kFloat).sum().backward();
    }
  };
  run(200);
  const auto before = resident_bytes();
  ASSERT_GT(before, 0);
  run(10000);
  EXPECT_LT(resident_bytes() - before, 16 << 20);
}

}  // namespace halfstep
