#include "halfstep/train/loop/stop_signal.h"

#include <gtest/gtest.h>

namespace halfstep::train {

namespace {

int seen_by_the_host = 0;
extern "C" void host_handler(int signal) {
  seen_by_the_host = signal;
}

TEST(StopSignal, NotesTheFirstAndSaysSo) {
  ::testing::internal::CaptureStderr();
  {
    const StopSignal stop;
    EXPECT_EQ(stop.received(), 0);
    std::raise(SIGINT);
    EXPECT_EQ(stop.received(), SIGINT);
  }
  EXPECT_EQ(::testing::internal::GetCapturedStderr(),
            "\nstopping after this step; once more to end at once\n");
  const StopSignal again;
  EXPECT_EQ(again.received(), 0);
}

TEST(StopSignalDeathTest, ASecondOneOfEitherKindEndsTheProcess) {
  EXPECT_EXIT(
      {
        const StopSignal stop;
        std::raise(SIGINT);
        std::raise(SIGTERM);
      },
      ::testing::KilledBySignal(SIGTERM), "stopping after this step");
}

TEST(StopSignal, GivesBackTheHostsHandler) {
  std::signal(SIGTERM, host_handler);
  {
    const StopSignal stop;
    std::raise(SIGTERM);
    EXPECT_EQ(stop.received(), SIGTERM);
    EXPECT_EQ(seen_by_the_host, 0);
  }
  std::raise(SIGTERM);
  EXPECT_EQ(seen_by_the_host, SIGTERM);
  std::signal(SIGTERM, SIG_DFL);
}

TEST(StopSignal, ASchedulersWarningMayComeTwiceAndBeforeTheEnd) {
  const StopSignal stop;
  ::testing::internal::CaptureStderr();
  std::raise(SIGUSR1);
  std::raise(SIGUSR1);
  std::raise(SIGTERM);
  EXPECT_EQ(stop.received(), SIGUSR1);
  EXPECT_EQ(::testing::internal::GetCapturedStderr(),
            "\nstopping after this step\n\nstopping after this step\n"
            "\nstopping after this step; once more to end at once\n");
}

TEST(StopSignal, APersonComesBeforeAScheduler) {
  const StopSignal stop;
  std::raise(SIGUSR1);
  std::raise(SIGINT);
  EXPECT_EQ(stop.received(), SIGINT);
}

TEST(StopSignal, LeavesTheProgramsOwnUseOfUsr1) {
  std::signal(SIGUSR1, host_handler);
  {
    const StopSignal stop;
    std::raise(SIGUSR1);
    EXPECT_EQ(stop.received(), 0);
    EXPECT_EQ(seen_by_the_host, SIGUSR1);
  }
  std::signal(SIGUSR1, SIG_DFL);
}

TEST(StopSignal, LeavesAnIgnoredSignalIgnored) {
  std::signal(SIGINT, SIG_IGN);
  {
    const StopSignal stop;
    std::raise(SIGINT);
    EXPECT_EQ(stop.received(), 0);
  }
  std::signal(SIGINT, SIG_DFL);
}

}  // namespace

}  // namespace halfstep::train
