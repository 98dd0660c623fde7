// LibTorch's profilers keep their state on the stack that policies, rehearsals, scopes and
// recorders are on.
#include "halfstep/autocast/autocast.h"
#include "halfstep/autocast/half_rehearsal.h"
#include "halfstep/autocast/module_scope.h"
#include "halfstep/inspect/op_observer.h"
#include "halfstep/inspect/precision_recorder.h"

#include <functional>
#include <memory>
#include <ostream>

#include <torch/csrc/autograd/profiler_kineto.h>
#include <torch/csrc/autograd/profiler_legacy.h>
#include <torch/types.h>

#include <gtest/gtest.h>

namespace halfstep {

namespace {

namespace profiler = torch::autograd::profiler;

profiler::ProfilerConfig config(profiler::ProfilerState state) {
  return profiler::ProfilerConfig(state);
}

/// A profiler, as its two functions.
struct Profiler {
  const char* name;
  std::function<void()> start;
  std::function<int()> stop;  // how often mm was seen
};

const Profiler kProfilers[] = {
    {"Legacy", [] { profiler::enableProfilerLegacy(config(profiler::ProfilerState::CPU)); },
     [] {
       int count = 0;
       for (const auto& thread : profiler::disableProfilerLegacy())
         for (const auto& event : thread)
           count +=
               event.kindStr() == std::string("push") && event.name() == std::string("aten::mm");
       return count;
     }},
    {"Kineto",
     [] {
       const std::set<profiler::ActivityType> activities{profiler::ActivityType::CPU};
       profiler::prepareProfiler(config(profiler::ProfilerState::KINETO), activities);
       profiler::enableProfiler(config(profiler::ProfilerState::KINETO), activities);
     },
     [] {
       const auto result = profiler::disableProfiler();
       int count = 0;
       for (const auto& event : result->events()) count += event.name() == "aten::mm";
       return count;
     }},
};

void PrintTo(const Profiler& profiler, std::ostream* out) {
  *out << profiler.name;
}

/// Something of ours, and whether it is there.
struct Ours {
  const char* name;
  std::function<std::shared_ptr<void>()> begin;
  std::function<bool()> is_there;
};

void PrintTo(const Ours& ours, std::ostream* out) {
  *out << ours.name;
}

bool softmax_is_float32() {
  return at::softmax(torch::ones({2, 2}, torch::kBFloat16), 1).scalar_type() == torch::kFloat;
}

const Ours kOurs[] = {
    {"Policy",
     [] {
       return std::make_shared<Autocast>(
           AutocastOptions(torch::kCPU).policy(OpPolicy().set("softmax", CastRule::float32)));
     },
     softmax_is_float32},
    {"Rehearsal", [] { return std::make_shared<HalfRehearsal>(); },
     [] { return HalfRehearsal::is_enabled(); }},
    {"Scope", [] { return std::make_shared<ModuleScope>("head"); },
     [] { return detail::ModuleScopeState::current() != nullptr; }},
    {"Recorder", [] { return std::make_shared<inspect::PrecisionRecorder>(); },
     [] { return inspect::detail::OpRecording::current() != nullptr; }},
};

void product() {
  const auto a = torch::ones({2, 2});
  at::mm(a, a);
}

}  // namespace

class Profilers : public ::testing::TestWithParam<std::tuple<Profiler, Ours>> {
 protected:
  const Profiler& profile = std::get<0>(GetParam());
  const Ours& ours = std::get<1>(GetParam());
};
INSTANTIATE_TEST_SUITE_P(
    All, Profilers, ::testing::Combine(::testing::ValuesIn(kProfilers), ::testing::ValuesIn(kOurs)),
    [](const auto& test) {
      return std::get<0>(test.param).name + std::string(std::get<1>(test.param).name);
    });

TEST_P(Profilers, StartsInsideAndStopsAfter) {
  EXPECT_FALSE(ours.is_there());
  auto guard = ours.begin();
  profile.start();
  product();
  EXPECT_TRUE(ours.is_there());
  guard.reset();
  EXPECT_FALSE(ours.is_there());
  product();
  EXPECT_EQ(profile.stop(), 2);
  EXPECT_FALSE(ours.is_there());
}

TEST_P(Profilers, StartsBeforeAndStopsInside) {
  profile.start();
  auto guard = ours.begin();
  product();
  EXPECT_TRUE(ours.is_there());
  EXPECT_EQ(profile.stop(), 1);
  EXPECT_TRUE(ours.is_there());
  guard.reset();
  EXPECT_FALSE(ours.is_there());
}

TEST_P(Profilers, NestsWithSeveral) {
  auto outer = ours.begin();
  profile.start();
  auto inner = ours.begin();
  product();
  inner.reset();
  EXPECT_TRUE(ours.is_there());
  auto last = ours.begin();
  EXPECT_EQ(profile.stop(), 1);
  last.reset();
  EXPECT_TRUE(ours.is_there());
  outer.reset();
  EXPECT_FALSE(ours.is_there());
}

}  // namespace halfstep
