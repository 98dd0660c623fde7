#pragma once

namespace halfstep::train {

/// While it lives, SIGINT and SIGTERM ask the loop to stop after the step at hand; a second one
/// ends the process as usual. One at a time per process.
class StopSignal {
 public:
  StopSignal();
  ~StopSignal();
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;

  /// The signal that came, or 0.
  int received() const;
};

}  // namespace halfstep::train
