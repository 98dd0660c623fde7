#include "halfstep/train/loop/stop_signal.h"

#include <cerrno>
#include <string_view>

#include <unistd.h>

namespace halfstep::train {

namespace {

volatile std::sig_atomic_t received_signal = 0;

// Only calls that are allowed in a signal handler.
extern "C" void note_signal(int signal) {
  constexpr std::string_view text = "\nstopping after this step; once more to end at once\n";
  constexpr std::string_view from_scheduler = "\nstopping after this step\n";
  const int error = errno;
  // SIGTERM comes after SIGUSR1 where the time is up; SIGINT is a person, who wants no more of it.
  if (received_signal == 0 || signal == SIGINT) received_signal = signal;
  const auto said = signal == SIGUSR1 ? from_scheduler : text;
  if (signal != SIGUSR1) {
    struct sigaction usual {};
    usual.sa_handler = SIG_DFL;
    ::sigaction(SIGINT, &usual, nullptr);
    ::sigaction(SIGTERM, &usual, nullptr);
  }
  [[maybe_unused]] const auto written = ::write(STDERR_FILENO, said.data(), said.size());
  errno = error;
}

void catch_unless_ignored(int signal, struct sigaction& old) {
  ::sigaction(signal, nullptr, &old);
  if (old.sa_handler == SIG_IGN) return;
  // A program of the user's may have a use of its own for SIGUSR1.
  if (signal == SIGUSR1 && old.sa_handler != SIG_DFL) return;
  struct sigaction noting {};
  noting.sa_handler = note_signal;
  noting.sa_flags = SA_RESTART;
  ::sigaction(signal, &noting, nullptr);
}

}  // namespace

StopSignal::StopSignal() {
  received_signal = 0;
  catch_unless_ignored(SIGINT, old_interrupt_);
  catch_unless_ignored(SIGTERM, old_terminate_);
  catch_unless_ignored(SIGUSR1, old_user_);
}

StopSignal::~StopSignal() {
  ::sigaction(SIGINT, &old_interrupt_, nullptr);
  ::sigaction(SIGTERM, &old_terminate_, nullptr);
  ::sigaction(SIGUSR1, &old_user_, nullptr);
}

int StopSignal::received() const {
  return received_signal;
}

}  // namespace halfstep::train
