#include "halfstep/autocast/autocast.h"
#include "halfstep/core/device.h"
#include "halfstep/core/error.h"

#include <optional>
#include <thread>

#include <ATen/autocast_mode.h>
#include <torch/types.h>

#include "tests/support/devices.h"
#include "tests/support/errors.h"
#include "tests/support/tolerance.h"

namespace halfstep {

namespace {

struct State {
  explicit State(c10::DeviceType device_type)
      : enabled(at::autocast::is_autocast_enabled(device_type)),
        dtype(at::autocast::get_autocast_dtype(device_type)),
        cache_enabled(at::autocast::is_autocast_cache_enabled()) {}
  State(bool e, c10::ScalarType d, bool c) : enabled(e), dtype(d), cache_enabled(c) {}
  bool operator==(const State&) const = default;

  bool enabled;
  c10::ScalarType dtype;
  bool cache_enabled;
};

// The number of regions the thread is in, which LibTorch tells only by changing it.
int nesting() {
  const int depth = at::autocast::increment_nesting() - 1;
  at::autocast::decrement_nesting();
  return depth;
}

}  // namespace

class AutocastRegion : public testing::DeviceTest {
 protected:
  void SetUp() override {
    testing::DeviceTest::SetUp();
    if (IsSkipped()) return;
    ASSERT_FALSE(at::autocast::is_autocast_enabled(GetParam()));
    ASSERT_EQ(nesting(), 0);
  }
  void TearDown() override {
    if (IsSkipped()) return;
    EXPECT_FALSE(at::autocast::is_autocast_enabled(GetParam()));
    EXPECT_EQ(nesting(), 0);
  }
};
HALFSTEP_ON_EACH_DEVICE(AutocastRegion);

TEST(AutocastDtype, DefaultIsHalfOnCudaAndBfloat16OnCpu) {
  EXPECT_EQ(Autocast(torch::kCPU).dtype(), torch::kBFloat16);
  EXPECT_EQ(Autocast(AutocastOptions(torch::kCUDA).enabled(false)).dtype(), torch::kHalf);
}

TEST(AutocastDtype, RunsInTheDefaultOfCuda) {
  HALFSTEP_REQUIRE_CUDA(1);
  const Autocast autocast(torch::kCUDA);
  const auto x = torch::ones({2, 2}, torch::kCUDA);
  EXPECT_EQ(torch::mm(x, x).scalar_type(), torch::kHalf);
}

TEST_P(AutocastRegion, SetsAndRestoresState) {
  const State before(GetParam());
  for (const auto dtype : {torch::kHalf, torch::kBFloat16}) {
    for (const bool cache : {true, false}) {
      const Autocast autocast(AutocastOptions(GetParam()).dtype(dtype).cache_enabled(cache));
      EXPECT_EQ(State(GetParam()), State(true, dtype, cache));
      EXPECT_TRUE(autocast.enabled());
      EXPECT_EQ(nesting(), 1);
    }
    EXPECT_EQ(State(GetParam()), before);
  }
}

TEST_P(AutocastRegion, NestedRegionInheritsWhatItIsNotTold) {
  const Autocast outer(AutocastOptions(GetParam()).dtype(torch::kBFloat16).cache_enabled(false));
  {
    const Autocast inner(GetParam());
    EXPECT_EQ(State(GetParam()), State(true, torch::kBFloat16, false));
    EXPECT_EQ(nesting(), 2);
  }
  {
    const Autocast inner(AutocastOptions(GetParam()).dtype(torch::kHalf).cache_enabled(true));
    EXPECT_EQ(State(GetParam()), State(true, torch::kHalf, true));
  }
  EXPECT_EQ(State(GetParam()), State(true, torch::kBFloat16, false));
}

TEST_P(AutocastRegion, DisabledInnerRegionRunsInTheInputsDtype) {
  const auto x = torch::randn({4, 4}, device());
  const Autocast outer(AutocastOptions(GetParam()).dtype(torch::kBFloat16));
  EXPECT_EQ(torch::mm(x, x).scalar_type(), torch::kBFloat16);
  {
    const Autocast inner(AutocastOptions(GetParam()).enabled(false));
    EXPECT_EQ(torch::mm(x, x).scalar_type(), torch::kFloat);
    {
      const Autocast innermost(GetParam());
      EXPECT_EQ(torch::mm(x, x).scalar_type(), torch::kBFloat16);
    }
    EXPECT_EQ(torch::mm(x, x).scalar_type(), torch::kFloat);
  }
  EXPECT_EQ(torch::mm(x, x).scalar_type(), torch::kBFloat16);
}

TEST_P(AutocastRegion, DisabledRegionTakesAnyDtypeAndChangesNone) {
  const State before(GetParam());
  const Autocast autocast(AutocastOptions(GetParam()).enabled(false).dtype(torch::kFloat));
  EXPECT_EQ(State(GetParam()), before);
  const auto x = torch::ones({10, 10}, device());
  EXPECT_EQ(torch::mm(x, x).scalar_type(), torch::kFloat);
}

TEST_P(AutocastRegion, RestoresStateWhenAnExceptionPasses) {
  const State before(GetParam());
  const auto x = torch::ones({2, 3}, device());
  try {
    const Autocast outer(AutocastOptions(GetParam()).dtype(torch::kBFloat16));
    const Autocast inner(AutocastOptions(GetParam()).dtype(torch::kHalf).cache_enabled(false));
    torch::mm(x, x);
    ADD_FAILURE() << "2x3 by 2x3 has no product";
  } catch (const c10::Error&) {}
  EXPECT_EQ(State(GetParam()), before);
  EXPECT_EQ(nesting(), 0);
}

TEST_P(AutocastRegion, LeavesOtherDevicesAlone) {
  const auto other = GetParam() == torch::kCPU ? torch::kCUDA : torch::kCPU;
  const State before(other);
  const Autocast autocast(GetParam());
  EXPECT_EQ(State(other), before);
}

TEST_P(AutocastRegion, LeavesDoublesAndIntegersAlone) {
  const Autocast autocast(GetParam());
  const auto wide = torch::ones({2, 2}, torch::dtype(torch::kDouble).device(device()));
  EXPECT_EQ(torch::mm(wide, wide).scalar_type(), torch::kDouble);
  EXPECT_EQ(torch::softmax(wide, 1).scalar_type(), torch::kDouble);
  EXPECT_EQ(torch::mse_loss(wide, wide).scalar_type(), torch::kDouble);
  EXPECT_EQ(torch::norm(wide).scalar_type(), torch::kDouble);
  EXPECT_EQ(torch::pow(wide, 2).scalar_type(), torch::kDouble);
  EXPECT_EQ(torch::cat({wide, wide}).scalar_type(), torch::kDouble);
  const auto whole = torch::ones({2, 2}, torch::dtype(torch::kLong).device(device()));
  EXPECT_EQ(torch::sum(whole).scalar_type(), torch::kLong);
  EXPECT_THROW(torch::mm(wide, wide.to(torch::kFloat)), c10::Error);
}

TEST(AutocastErrors, RefusesDeviceTypesWithoutAutocast) {
  EXPECT_ERROR(Autocast(torch::kMeta), UsageError,
               "[Autocast] device_type must be one of cpu, cuda", "but got meta",
               "use the type of the device");
  EXPECT_EQ(nesting(), 0);
}

TEST(AutocastErrors, RefusesDtypesThatAreNotSixteenBitFloats) {
  const State before(torch::kCPU);
  for (const auto dtype : {torch::kFloat, torch::kDouble, torch::kShort}) {
    EXPECT_ERROR(Autocast(AutocastOptions(torch::kCPU).dtype(dtype)), UsageError,
                 "[Autocast] dtype must be float16 or bfloat16, but got ",
                 "for full precision use enabled(false)");
  }
  EXPECT_ERROR(Autocast(AutocastOptions(torch::kCUDA).dtype(torch::kFloat)), UsageError,
               "but got float32");
  EXPECT_EQ(State(torch::kCPU), before);
  EXPECT_EQ(nesting(), 0);
}

TEST(AutocastErrors, WarnsAndIsDisabledWhereCudaDoesNotWork) {
  if (cuda_works()) GTEST_SKIP() << "SKIPPED, NOTHING WAS TESTED: CUDA works here";
  struct Collector : c10::WarningHandler {
    void process(const c10::Warning& warning) override { text += warning.msg(); }
    std::string text;
  } collector;
  const c10::WarningUtils::WarningHandlerGuard handler(&collector);
  const c10::WarningUtils::WarnAlways always(true);
  const Autocast autocast(AutocastOptions(torch::kCUDA).dtype(torch::kBFloat16));
  EXPECT_FALSE(autocast.enabled());
  EXPECT_EQ(autocast.dtype(), torch::kHalf);
  EXPECT_EQ(at::autocast::get_autocast_dtype(torch::kCUDA), torch::kHalf);
  EXPECT_FALSE(at::autocast::is_autocast_enabled(torch::kCUDA));
  EXPECT_THAT(collector.text, ::testing::HasSubstr("needs a working CUDA device"));
}

TEST(AutocastDeathTest, EndsTheProgramWhenRegionsEndOutOfOrder) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(
      {
        std::optional<Autocast> outer(std::in_place, torch::kCPU);
        const Autocast inner(torch::kCPU);
        outer.reset();
      },
      "\\[Autocast\\] a region must end on the thread that began it");
}

TEST(AutocastDeathTest, EndsTheProgramWhenARegionEndsOnAnotherThread) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(
      {
        std::optional<Autocast> region(std::in_place, torch::kCPU);
        std::thread([&] { region.reset(); }).join();
      },
      "keep the guard on the stack");
}

}  // namespace halfstep
