#include "halfstep/train/launch/failure.h"

#include <csignal>

#include <gtest/gtest.h>

namespace halfstep::train::detail {

namespace {

// As waitpid gives them.
constexpr int exited(int status) {
  return status << 8;
}
constexpr int killed(int signal) {
  return signal;
}

const RankEnding lost_a_peer{
    .rank = 0,
    .pid = 10,
    .wait_status = exited(1),
    .last_lines = {"[x] Read error [127.0.0.1]:1: Connection reset by peer", "goodbye"}};
const RankEnding threw{
    .rank = 1, .pid = 11, .wait_status = exited(2), .last_lines = {"error: [train] bad"}};
const RankEnding was_killed{.rank = 2, .pid = 12, .wait_status = killed(SIGKILL)};
const RankEnding hung{.rank = 3, .pid = 13, .wait_status = killed(SIGKILL), .outlived = true};
const RankEnding suspended{.rank = 4, .pid = 14, .wait_status = killed(SIGKILL), .suspended = true};
const RankEnding finished{.rank = 5, .pid = 15};

int cause(const std::vector<RankEnding>& endings) {
  return find_cause(endings).rank;
}

TEST(Failure, TheRankThatExplainsTheOthersIsFound) {
  EXPECT_EQ(cause({finished, lost_a_peer}), 0);
  EXPECT_EQ(cause({lost_a_peer, threw}), 1);
  EXPECT_EQ(cause({threw, lost_a_peer}), 1);
  EXPECT_EQ(cause({lost_a_peer, was_killed}), 2);
  EXPECT_EQ(cause({lost_a_peer, hung}), 3);
  EXPECT_EQ(cause({lost_a_peer, threw, hung}), 1);
  EXPECT_EQ(cause({lost_a_peer, suspended, hung}), 4);
}

TEST(Failure, AmongEqualsTheFirst) {
  auto later = threw;
  later.rank = 7;
  EXPECT_EQ(cause({later, threw}), 7);
  EXPECT_EQ(cause({threw, later}), 1);
}

TEST(Failure, WhatIsLossOfAPeer) {
  for (const char* line :
       {"Connection closed by peer [10.0.0.1]:5", "Timed out waiting 5000ms for recv operation",
        "error: [ProcessGroup] all ranks must go on together, but rank 1 failed: bad",
        "NCCL error: remote process exited or there was a network error"})
    EXPECT_TRUE(is_loss_of_a_peer({line, "last"})) << line;
  EXPECT_FALSE(is_loss_of_a_peer({"error: [config] x.yaml must be readable"}));
  EXPECT_FALSE(is_loss_of_a_peer({}));
}

TEST(Failure, Descriptions) {
  EXPECT_EQ(describe(threw), "rank 1 (process 11) ended with status 2");
  EXPECT_EQ(describe(was_killed),
            "rank 2 (process 12) was killed by SIGKILL, as the system does where memory runs out");
  EXPECT_EQ(describe(hung), "rank 3 (process 13) hung: it did not end with the others");
  EXPECT_EQ(describe(suspended), "rank 4 (process 14) was suspended (SIGSTOP) and did not go on");
  EXPECT_EQ(describe({.rank = 6, .pid = 16, .wait_status = killed(SIGSEGV)}),
            "rank 6 (process 16) was killed by SIGSEGV");
}

TEST(Failure, ExitStatusIsAShells) {
  EXPECT_EQ(exit_status(exited(3)), 3);
  EXPECT_EQ(exit_status(killed(SIGTERM)), 143);
}

}  // namespace

}  // namespace halfstep::train::detail
