#pragma once
#include <csignal>

namespace halfstep::train {

/// While it lives, SIGINT and SIGTERM ask the loop to stop after the step at hand, which standard
/// error is told; a second one, of either kind, ends the process as usual. SIGUSR1, by which Slurm
/// warns before the time is up, asks the same, however often it comes, unless the program handles
/// it itself. A signal that was ignored (nohup) stays ignored. The destructor puts back what
/// handled them before. One at a time per process.
class StopSignal {
 public:
  StopSignal();
  ~StopSignal();
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;

  /// The signal that came, or 0: of several the first, but SIGINT before the others.
  int received() const;

 private:
  struct sigaction old_interrupt_ {};
  struct sigaction old_terminate_ {};
  struct sigaction old_user_ {};
};

}  // namespace halfstep::train
