#include "halfstep/train/launch/signal_file.h"

#include "halfstep/core/error.h"

#include <cerrno>
#include <cstring>

#include <sys/signalfd.h>
#include <unistd.h>

namespace halfstep::train::detail {

SignalFile::SignalFile() {
  // Ignored, it would take the ends of children away.
  struct sigaction usual {};
  usual.sa_handler = SIG_DFL;
  ::sigaction(SIGCHLD, &usual, &old_child_action_);
  sigset_t signals;
  ::sigemptyset(&signals);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGTSTP, SIGCHLD})
    ::sigaddset(&signals, signal);
  ::sigprocmask(SIG_BLOCK, &signals, &old_mask_);
  descriptor_ = ::signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC);
  HALFSTEP_CHECK_ENVIRONMENT(descriptor_ >= 0, "dist-train",
                             "signals must be readable, but LibC says: ", std::strerror(errno),
                             "; raise ulimit -n");
}

SignalFile::~SignalFile() {
  ::close(descriptor_);
  ::sigaction(SIGCHLD, &old_child_action_, nullptr);
  ::sigprocmask(SIG_SETMASK, &old_mask_, nullptr);
}

std::vector<int> SignalFile::read() const {
  std::vector<int> signals;
  signalfd_siginfo info;
  while (::read(descriptor_, &info, sizeof info) == static_cast<ssize_t>(sizeof info))
    signals.push_back(static_cast<int>(info.ssi_signo));
  return signals;
}

}  // namespace halfstep::train::detail
