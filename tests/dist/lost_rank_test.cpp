// Ranks that fail, are killed, hang or leave: the others end soon, and say whose failure it was.
#include "halfstep/core/error.h"
#include "halfstep/dist/process_group.h"

#include <csignal>

#include <torch/types.h>

#include "tests/dist/join.h"
#include "tests/support/errors.h"
#include "tests/support/rank_processes.h"

namespace halfstep::testing {

using dist::LaunchEnvironment;
using dist::ProcessGroup;
using std::chrono::seconds;
using ::testing::HasSubstr;

namespace {

/// Exchanges forever; `fault` may end this rank in step 20.
void exchange_until(ProcessGroup& group, const std::function<void()>& fault) {
  for (int step = 0;; ++step) {
    if (step == 20) fault();
    group.all_reduce_(torch::ones({1000}));
  }
}

void expect_ended_by(const std::vector<RankResult>& results, int lost, const std::string& message,
                     double within) {
  for (size_t rank = 0; rank < results.size(); ++rank) {
    if (rank == static_cast<size_t>(lost)) continue;
    EXPECT_EQ(results[rank].status, 1) << "rank " << rank << ":\n" << results[rank].output;
    EXPECT_LT(results[rank].seconds, within) << "rank " << rank;
    EXPECT_THAT(results[rank].output, HasSubstr(message)) << "rank " << rank;
  }
}

}  // namespace

class LostRankTest : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Rank, LostRankTest, ::testing::Values(0, 2));

TEST_P(LostRankTest, ErrorIsToldToAll) {
  const int lost = GetParam();
  const auto results = on_ranks(3, [&](const LaunchEnvironment& launch) {
    ProcessGroup group(quick(launch));
    group.run([&] {
      exchange_until(group, [&] {
        if (launch.rank == lost) throw UsageError("[here] the data must be good, but is bad");
      });
    });
  });
  EXPECT_EQ(results[static_cast<size_t>(lost)].status, 1);
  EXPECT_THAT(results[static_cast<size_t>(lost)].output,
              HasSubstr("thrown: [here] the data must be good, but is bad\n"));
  expect_ended_by(results, lost,
                  "all ranks must go on together, but rank " + std::to_string(lost) +
                      " failed: [here] the data must be good, but is bad",
                  15);
}

TEST_P(LostRankTest, KilledOneIsNamed) {
  const int lost = GetParam();
  const auto results = on_ranks(3, [&](const LaunchEnvironment& launch) {
    ProcessGroup group(quick(launch));
    group.run([&] {
      exchange_until(group, [&] {
        if (launch.rank == lost) ::raise(SIGKILL);
      });
    });
  });
  EXPECT_EQ(results[static_cast<size_t>(lost)].status, 128 + SIGKILL);
  expect_ended_by(results, lost, "but rank " + std::to_string(lost) + " failed: it ", 15);
}

// Stopped, its connections stay open: nothing breaks off.
TEST_P(LostRankTest, StoppedOneIsNamed) {
  const int lost = GetParam();
  const auto results =
      on_ranks(3,
               [&](const LaunchEnvironment& launch) {
                 ProcessGroup group(quick(launch).timeout(seconds(300)).lost_after(seconds(4)));
                 group.run([&] {
                   exchange_until(group, [&] {
                     if (launch.rank == lost) ::raise(SIGSTOP);
                   });
                 });
               },
               {.limit = seconds(20)});
  expect_ended_by(results, lost, "but rank " + std::to_string(lost) + " failed: it ", 18);
}

// Alive, but not where the others are: the time-out of the exchange finds it.
TEST(LostRankTest, OneBehindIsNamed) {
  const auto results = on_ranks(3,
                                [](const LaunchEnvironment& launch) {
                                  ProcessGroup group(quick(launch).timeout(seconds(2)));
                                  group.run([&] {
                                    exchange_until(group, [&] {
                                      if (launch.rank == 1) ::sleep(60);
                                    });
                                  });
                                },
                                {.limit = seconds(40)});
  expect_ended_by(
      results, 1,
      "but rank 1 failed: it is alive, but stands at exchange 20 where others are at 21", 20);
  EXPECT_EQ(results[1].status, 1);
  EXPECT_LT(results[1].seconds, 25) << "ended by its watch, not by its sleep";
  EXPECT_THAT(results[1].output, HasSubstr("rank 1"));
}

TEST(LostRankTest, OneThatLeftIsNamed) {
  const auto results = on_ranks(3, [](const LaunchEnvironment& launch) {
    ProcessGroup group(quick(launch));
    group.run([&] {
      for (int step = 0; step < (launch.rank == 2 ? 5 : 30); ++step)
        group.all_reduce_(torch::ones({10}));
    });
  });
  EXPECT_EQ(results[2].status, 0) << results[2].output;
  expect_ended_by(results, 2,
                  "but rank 2 failed: it has ended, without an error, before the others", 20);
}

// A rank whose error passes by no run() is told of, too.
TEST(LostRankTest, ErrorOutsideOfRunIsNoticed) {
  const auto results = on_ranks(2, [](const LaunchEnvironment& launch) {
    ProcessGroup group(quick(launch));
    exchange_until(group, [&] {
      if (launch.rank == 1) throw std::runtime_error("gone");
    });
  });
  EXPECT_EQ(results[1].status, 1);
  EXPECT_EQ(results[0].status, 1);
  EXPECT_LT(results[0].seconds, 15);
}

// Rank 0 holds the store: it waits for the others, however long they take.
TEST(LostRankTest, FirstRankWaitsForTheOthers) {
  const auto results = on_ranks(2, [](const LaunchEnvironment& launch) {
    ProcessGroup group(quick(launch).lost_after(seconds(3)));
    group.barrier();
    if (launch.rank == 1) ::sleep(5);
  });
  EXPECT_EQ(results[0].status, 0) << results[0].output;
  EXPECT_EQ(results[1].status, 0) << results[1].output;
  EXPECT_GT(results[0].seconds, 5);
}

}  // namespace halfstep::testing
