#pragma once
#include <csignal>
#include <vector>

namespace halfstep::train::detail {

/// While it lives, the signals a supervisor passes on (SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGTSTP)
/// and SIGCHLD come as data of a descriptor that can be polled, instead of doing what they do. A
/// signal that was ignored (nohup) stays ignored. One at a time per process, in its only thread.
class SignalFile {
 public:
  /// Throws EnvironmentError where no descriptor is left.
  SignalFile();
  ~SignalFile();
  SignalFile(const SignalFile&) = delete;
  SignalFile& operator=(const SignalFile&) = delete;

  int descriptor() const { return descriptor_; }

  /// The signals that have come, without waiting.
  std::vector<int> read() const;

 private:
  int descriptor_ = -1;
  sigset_t old_mask_{};
  struct sigaction old_child_action_ {};
};

}  // namespace halfstep::train::detail
