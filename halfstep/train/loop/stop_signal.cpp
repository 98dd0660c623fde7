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
  const int error = errno;
  received_signal = signal;
  struct sigaction usual {};
  usual.sa_handler = SIG_DFL;
  ::sigaction(SIGINT, &usual, nullptr);
  ::sigaction(SIGTERM, &usual, nullptr);
  [[maybe_unused]] const auto written = ::write(STDERR_FILENO, text.data(), text.size());
  errno = error;
}

void catch_unless_ignored(int signal, struct sigaction& old) {
  ::sigaction(signal, nullptr, &old);
  if (old.sa_handler == SIG_IGN) return;
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
}

StopSignal::~StopSignal() {
  ::sigaction(SIGINT, &old_interrupt_, nullptr);
  ::sigaction(SIGTERM, &old_terminate_, nullptr);
}

int StopSignal::received() const {
  return received_signal;
}

}  // namespace halfstep::train
