#pragma once
#include "halfstep/train/launch/rank_process.h"

#include <chrono>
#include <vector>

namespace halfstep::train::detail {

/// The processes of one job on this machine.
struct Job {
  const char* name = "dist-train";  ///< in messages
  ProcessCommand command;           ///< the same for all ranks
  int first_rank = 0;
  std::vector<dist::Variables> variables;  ///< one for each rank, in their order
  /// How long the other ranks may take to end by themselves once one has failed, and how long a
  /// rank may be suspended.
  std::chrono::milliseconds patience{5000};
};

/// Starts the ranks of the job and waits until all have ended. Once one has failed (was killed,
/// ended with a status other than 0, was suspended), the others have `patience` to end, then they
/// are killed; the rank that explains it is named on standard error with the last lines of its own.
/// SIGINT, SIGTERM and SIGUSR1 are passed on once each time they come, SIGHUP as SIGTERM; SIGTSTP
/// suspends all ranks and SIGCONT lets them go on. After the second SIGINT or SIGTERM they have
/// `patience` to end.
///
/// Lines of the ranks but 0 are shown with their rank, and a line that several print, once.
///
/// Returns 0 where all ranks did; where they stopped after a signal N, having saved, 128 + N; else
/// the status of the rank that explains the failure (128 + N where signal N killed it), or 1 where
/// that one hung.
int supervise(const Job& job);

}  // namespace halfstep::train::detail
