// Joining, and what ranks exchange.
#include "halfstep/dist/process_group.h"

#include "halfstep/core/error.h"
#include "halfstep/dist/network_interfaces.h"

#include <numeric>

#include <torch/cuda.h>
#include <torch/types.h>

#include "tests/dist/join.h"
#include "tests/support/errors.h"
#include "tests/support/rank_processes.h"
#include <stdlib.h>

namespace halfstep::testing {

using dist::LaunchEnvironment;
using dist::ProcessGroup;
using dist::ProcessGroupOptions;
using dist::Reduce;
using std::chrono::seconds;

TEST(ProcessGroupTest, ReducesOverRanks) {
  expect_on_ranks(3, [](const LaunchEnvironment& launch) {
    ProcessGroup group(quick(launch));
    EXPECT_EQ(group.rank(), launch.rank);
    EXPECT_EQ(group.world_size(), 3);
    EXPECT_EQ(group.backend(), dist::Backend::gloo);
    const auto mine = [&] { return torch::tensor({1.0f, 10.0f}) * (launch.rank + 1); };
    const auto reduced = [&](Reduce reduce) {
      auto tensor = mine();
      group.all_reduce_(tensor, reduce);
      return tensor;
    };
    EXPECT_TRUE(torch::equal(reduced(Reduce::sum), torch::tensor({6.0f, 60.0f})));
    EXPECT_TRUE(torch::equal(reduced(Reduce::mean), torch::tensor({2.0f, 20.0f})));
    EXPECT_TRUE(torch::equal(reduced(Reduce::max), torch::tensor({3.0f, 30.0f})));
    EXPECT_TRUE(torch::equal(reduced(Reduce::min), torch::tensor({1.0f, 10.0f})));
    EXPECT_ERROR(group.all_reduce_(torch::ones({2}, torch::kLong), Reduce::mean), UsageError,
                 "[ProcessGroup::all_reduce_]", "floating-point numbers, but got Long");

    auto tensor = mine();
    group.broadcast_(tensor, 2);
    EXPECT_TRUE(torch::equal(tensor, torch::tensor({3.0f, 30.0f})));
    EXPECT_EQ(group.broadcast("from " + std::to_string(launch.rank), 1), "from 1");
    EXPECT_EQ(group.broadcast(launch.rank == 0 ? "" : "other"), "");
    const std::string long_text(100'000, static_cast<char>('a' + launch.rank));
    const auto all = group.all_gather(launch.rank == 1 ? "" : long_text);
    ASSERT_EQ(all.size(), 3u);
    EXPECT_EQ(all[0], std::string(100'000, 'a'));
    EXPECT_EQ(all[1], "");
    EXPECT_EQ(all[2], std::string(100'000, 'c'));
    EXPECT_ERROR(group.broadcast_(tensor, 3), UsageError, "from 0 to 2, but got 3");
  });
}

TEST(ProcessGroupTest, BarrierWaitsForTheLast) {
  expect_on_ranks(2, [](const LaunchEnvironment& launch) {
    ProcessGroup group(quick(launch));
    group.barrier();
    const auto begin = std::chrono::steady_clock::now();
    if (launch.rank == 1) ::usleep(400'000);
    group.barrier();
    const auto waited = std::chrono::steady_clock::now() - begin;
    EXPECT_GE(waited, std::chrono::milliseconds(390)) << "on rank " << launch.rank;
  });
}

TEST(ProcessGroupTest, ComparesTexts) {
  expect_on_ranks(3, [](const LaunchEnvironment& launch) {
    ProcessGroup group(quick(launch));
    group.check_same("here", "it", "same\n", "so");
    const std::string own = launch.rank == 2 ? "a: 1\nb: 3\n" : "a: 1\nb: 2\n";
    EXPECT_ERROR(
        group.check_same("config", "the config", own, "give all the same"), UsageError,
        "[config] the config must be the same on all ranks, but rank 2 differs from rank 0 "
        "in line 2: 'b: 3' instead of 'b: 2'; give all the same");
    // Where one text ends before the other.
    EXPECT_ERROR(group.check_same("config", "it", launch.rank == 1 ? "a\n" : "a\nb\n", "so"),
                 UsageError, "rank 1 differs from rank 0 in line 2: nothing instead of 'b'");
    group.barrier();
  });
}

TEST(ProcessGroupTest, OneRankNeedsNoNetwork) {
  LaunchEnvironment launch;
  const BusyPort busy;
  launch.master_port = busy.number();
  ProcessGroup group((ProcessGroupOptions(launch)));
  auto tensor = torch::ones({2});
  group.all_reduce_(tensor, Reduce::mean);
  EXPECT_TRUE(torch::equal(tensor, torch::ones({2})));
  EXPECT_EQ(group.broadcast("text"), "text");
  EXPECT_EQ(group.all_gather("text"), std::vector<std::string>{"text"});
  group.check_same("here", "it", "text", "so");
  group.barrier();
  EXPECT_EQ(group.run([] { return 7; }), 7);
  EXPECT_ERROR(group.run([] { throw UsageError("mine"); }), UsageError, "mine");
}

TEST(ProcessGroupTest, RefusesRanksAndTimesOutOfRange) {
  const auto join = [](const LaunchEnvironment& launch) {
    ProcessGroup group((ProcessGroupOptions(launch)));
  };
  EXPECT_ERROR(join({.rank = 2, .world_size = 2}), UsageError, "[ProcessGroup]",
               "from 0 to world_size - 1, but got rank 2 of 2", "RANK");
  EXPECT_ERROR(join({.rank = -1, .world_size = 2}), UsageError, "got rank -1 of 2");
  EXPECT_ERROR(join({.world_size = 2, .local_rank = 2, .local_world_size = 2}), UsageError,
               "got 2 of 2", "LOCAL_RANK");
  EXPECT_ERROR(join({.world_size = 2, .local_world_size = 3}), UsageError, "world_size 2");
  EXPECT_ERROR(join({.world_size = 2, .master_port = 0}), UsageError, "MASTER_PORT");
  EXPECT_ERROR(ProcessGroup(ProcessGroupOptions().timeout(seconds(0))), UsageError, "above 0");
  EXPECT_ERROR(ProcessGroup(ProcessGroupOptions().lost_after(seconds(2))), UsageError,
               "at least 3 seconds, but got 2000 ms");
  if (!torch::cuda::is_available()) {
    EXPECT_ERROR(ProcessGroup(ProcessGroupOptions().backend(dist::Backend::nccl)), EnvironmentError,
                 "backend nccl must be there", "take gloo");
  }
}

TEST(JoiningTest, BusyPortIsTold) {
  const BusyPort busy;
  LaunchEnvironment launch{.world_size = 2, .local_world_size = 2, .master_port = busy.number()};
  const auto message = "rank 0 must listen on port " + std::to_string(busy.number()) +
                       ", but another program does; choose a free MASTER_PORT";
  EXPECT_ERROR(ProcessGroup(quick(launch)), EnvironmentError, "[ProcessGroup]", message.c_str());
}

TEST(JoiningTest, NobodyAtTheAddressIsTold) {
  LaunchEnvironment launch{.rank = 1, .world_size = 2, .local_rank = 1, .local_world_size = 2};
  launch.master_port = free_port();
  const auto message =
      "rank 1 must reach rank 0 at 127.0.0.1:" + std::to_string(launch.master_port) +
      ", but does not within 2 s";
  EXPECT_ERROR(ProcessGroup(quick(launch).join_timeout(seconds(2))), EnvironmentError,
               message.c_str(), "check MASTER_ADDR, MASTER_PORT and that rank 0 runs");
  launch.master_addr = "no-such-host.invalid";
  EXPECT_ERROR(ProcessGroup(quick(launch).join_timeout(seconds(2))), EnvironmentError,
               "MASTER_ADDR must be reached from here, but no interface leads to "
               "'no-such-host.invalid' (",
               "this machine has ");
}

TEST(JoiningTest, MissingRankIsNamed) {
  const auto results = on_ranks(4,
                                [](const LaunchEnvironment& launch) {
                                  ProcessGroup group(quick(launch).join_timeout(seconds(3)));
                                },
                                {.started = {0, 2}});
  for (const int rank : {0, 2}) {
    const auto& result = results[static_cast<size_t>(rank)];
    EXPECT_EQ(result.status, 1) << result.output;
    EXPECT_LT(result.seconds, 15);
  }
  EXPECT_THAT(results[0].output,
              ::testing::HasSubstr("all 4 ranks must join within 3 s, but ranks 1, 3 did not"));
}

TEST(JoiningTest, RankGivenTwiceIsTold) {
  const auto results = on_ranks(2, [](LaunchEnvironment launch) {
    launch.rank = 0;
    if (launch.local_rank == 1) launch.rank = 1;
    ProcessGroup first(quick(launch));
    if (launch.rank == 0) return first.barrier();
    // The rest of this job's life another process comes as rank 1.
    EXPECT_ERROR(ProcessGroup(quick(launch)), EnvironmentError,
                 "each rank must be one process, but another one has joined as rank 1",
                 "its own MASTER_PORT");
    first.barrier();
  });
  for (const auto& result : results) EXPECT_EQ(result.status, 0) << result.output;
}

TEST(JoiningTest, DifferentWorldSizesAreTold) {
  const auto results = on_ranks(2, [](LaunchEnvironment launch) {
    if (launch.rank == 1) launch.world_size = launch.local_world_size = 3;
    ProcessGroup group(quick(launch).join_timeout(seconds(4)));
  });
  EXPECT_EQ(results[0].status, 1);
  EXPECT_EQ(results[1].status, 1);
  EXPECT_THAT(results[0].output + results[1].output,
              ::testing::ContainsRegex("was started for [23] ranks and others at .* for [23]"));
}

TEST(InterfaceTest, UnknownInterfaceListsTheOthers) {
  LaunchEnvironment launch;
  ASSERT_EQ(::setenv("GLOO_SOCKET_IFNAME", "nowhere0", 1), 0);
  EXPECT_ERROR(ProcessGroup((ProcessGroupOptions(launch))), EnvironmentError,
               "GLOO_SOCKET_IFNAME must name network interfaces of this machine that are up, but "
               "got 'nowhere0'; it has ",
               "lo (127.0.0.1)");
  ASSERT_EQ(::setenv("GLOO_SOCKET_IFNAME", "lo", 1), 0);
  ProcessGroup group((ProcessGroupOptions(launch)));
  group.barrier();
  ASSERT_EQ(::unsetenv("GLOO_SOCKET_IFNAME"), 0);
}

TEST(InterfaceTest, RanksMeetOverTheNamedInterface) {
  expect_on_ranks(2, [](const LaunchEnvironment& launch) {
    ASSERT_EQ(::setenv("GLOO_SOCKET_IFNAME", "lo", 1), 0);
    ProcessGroup group(quick(launch));
    auto tensor = torch::ones({1});
    group.all_reduce_(tensor);
    EXPECT_EQ(tensor.item<float>(), 2);
  });
}

// A name that leads to 127.0.0.1 on this machine, as its own does on Debian: ranks on another one
// would never come. (A number is the only such name that every machine knows.)
TEST(InterfaceTest, LoopbackIsNoAddressForTwoMachines) {
  const auto results = on_ranks(2, [](LaunchEnvironment launch) {
    launch.local_rank = 0;
    launch.local_world_size = 1;
    launch.master_addr = "2130706433";
    ProcessGroup group(quick(launch));
  });
  for (const auto& result : results) {
    EXPECT_EQ(result.status, 1);
    EXPECT_THAT(result.output,
                ::testing::HasSubstr("MASTER_ADDR '2130706433' leads to 127.0.0.1, which only this "
                                     "machine reaches; give the address of rank 0's machine"));
    EXPECT_THAT(result.output, ::testing::HasSubstr("(this machine has "));
    EXPECT_THAT(result.output, ::testing::Not(::testing::HasSubstr("Exception raised from")));
  }
}

TEST(InterfaceTest, ListsThisMachines) {
  const auto interfaces = dist::list_network_interfaces();
  ASSERT_FALSE(interfaces.empty());
  EXPECT_TRUE(interfaces.back().loopback) << dist::describe(interfaces);
  EXPECT_EQ(dist::describe({{"eth0", "10.0.0.5", false}, {"lo", "127.0.0.1", true}}),
            "eth0 (10.0.0.5), lo (127.0.0.1)");
  EXPECT_EQ(dist::describe({}), "none");
  std::string why;
  EXPECT_EQ(dist::local_address_towards("127.0.0.1", why), "127.0.0.1");
  EXPECT_EQ(dist::local_address_towards("no-such-host.invalid", why), std::nullopt);
  EXPECT_NE(why, "");
}

TEST(InterfaceTest, NcclsWordsAreRead) {
  const std::vector<dist::NetworkInterface> all{{"eth0", "10.0.0.5", false},
                                                {"eth01", "10.0.1.5", false},
                                                {"ib0", "10.1.0.5", false},
                                                {"lo", "127.0.0.1", true}};
  const auto names = [&](const std::string& words) {
    std::string text;
    for (const auto& each : dist::fitting_nccl(words, all)) text += each.name + " ";
    return text;
  };
  EXPECT_EQ(names("eth"), "eth0 eth01 ");
  EXPECT_EQ(names("eth0"), "eth0 eth01 ");
  EXPECT_EQ(names("=eth0"), "eth0 ");
  EXPECT_EQ(names("ib,lo"), "ib0 lo ");
  EXPECT_EQ(names("^eth"), "ib0 ");
  EXPECT_EQ(names("^=eth0"), "eth01 ib0 ");
  EXPECT_EQ(names("docker"), "");
}

}  // namespace halfstep::testing
