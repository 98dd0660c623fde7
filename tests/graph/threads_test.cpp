// A graph used from other threads: one after the other, at once, and beside another graph.
#include "halfstep/core.h"
#include "halfstep/graph.h"

#include <atomic>
#include <future>
#include <latch>
#include <thread>

#include "tests/graph/step_test.h"
#include "tests/support/errors.h"
#include <gtest/gtest.h>

namespace {

using halfstep::UsageError;
using halfstep::testing::same_bits;
using halfstep::testing::Step;
using torch::Tensor;

class GraphThreads : public halfstep::testing::StepTest {};

TEST_P(GraphThreads, AnotherThreadMayReplay) {
  auto net = mlp();
  const auto function = [&](const Tensor& x) { return net->forward(x); };
  Step step(net, function);
  const auto x = random({8, 12});
  warm_up(step, x);
  Tensor result;
  std::thread([&] { result = step(x); }).join();
  EXPECT_TRUE(same_bits({function(x).detach()}, {result}));
  EXPECT_EQ(step.replayed_steps(), 2);
}

TEST_P(GraphThreads, ASecondCallWhileOneRunsIsAnErrorAndTheFirstGoesOn) {
  std::latch inside(1), tried(1);
  Step step([&](const Tensor& x) {
    inside.count_down();
    tried.wait();
    return x * 2;
  });
  const auto x = random({3});
  auto first = std::async(std::launch::async, [&] { return step(x); });
  inside.wait();
  EXPECT_ERROR(step(x), UsageError, "one call at a time");
  EXPECT_ERROR(step.forget_recordings(), UsageError, "must not be changed while it runs");
  tried.count_down();
  EXPECT_TRUE(same_bits({x * 2}, {first.get()}));
  EXPECT_TRUE(same_bits({x * 2}, {step(x)}));
}

TEST_P(GraphThreads, EachThreadRecordsAndReplaysAGraphOfItsOwn) {
  constexpr int kThreads = 4, kCalls = 20;
  auto net = mlp();
  std::latch start(kThreads);
  std::vector<Tensor> inputs, expected;
  for (int i = 0; i < kThreads * kCalls; ++i) {
    inputs.push_back(random({8, 12}));
    expected.push_back(net->forward(inputs.back()).detach());
  }
  std::vector<Tensor> results(inputs.size());
  std::atomic<int64_t> replayed = 0;
  std::vector<std::thread> threads;
  for (int thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, thread] {
      Step step(net, [&](const Tensor& x) { return net->forward(x); });
      start.arrive_and_wait();
      for (int call = 0; call < kCalls; ++call) {
        const auto i = size_t(thread * kCalls + call);
        results[i] = step(inputs[i]);
      }
      replayed += step.replayed_steps();
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_TRUE(same_bits(expected, results));
  // Others that let go of a weight look as if it had been replaced: some record once more.
  EXPECT_GT(replayed, kThreads);
}

HALFSTEP_ON_EACH_DEVICE(GraphThreads);

}  // namespace
