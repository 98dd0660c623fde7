#pragma once
#include <chrono>
#include <string>
#include <vector>

namespace halfstep::train {

/// One line on a terminal, drawn over itself.
class ProgressBar {
 public:
  ProgressBar() = default;
  /// Ends the line, also where an error ends the run.
  ~ProgressBar() { end(); }
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  /// True where standard output is a terminal that can draw over a line.
  static bool fits();

  /// Draws bar_line() in the terminal's width, at most ten times a second unless `now`.
  void draw(const std::string& label, double share, const std::vector<std::string>& fields,
            bool now = false);
  /// True where a draw would do something, so that its text need not be made (nor the loss be read)
  /// otherwise.
  bool due() const;
  /// Ends the line, so that other output starts on a fresh one.
  void end();

 private:
  std::chrono::steady_clock::time_point last_{};
  bool open_ = false;
};

/// `label [====>    ] field field …`, `width` characters at most. The fields are in the order of
/// their worth: the last ones are left out where a bar would have no room, the bar where the first
/// field has none.
std::string bar_line(const std::string& label, double share, const std::vector<std::string>& fields,
                     size_t width);

}  // namespace halfstep::train
