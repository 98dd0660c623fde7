#pragma once
#include <chrono>
#include <string>

namespace halfstep::train {

/// One line on a terminal, drawn over itself.
class ProgressBar {
 public:
  /// True where standard output is a terminal that can draw over a line.
  static bool fits();

  /// Draws `label [====>    ] text` in the terminal's width, at most ten times a second unless
  /// `now`.
  void draw(const std::string& label, double share, const std::string& text, bool now = false);
  /// True where a draw would do something, so that its text need not be made (nor the loss be read)
  /// otherwise.
  bool due() const;
  /// Ends the line, so that other output starts on a fresh one.
  void end();

 private:
  std::chrono::steady_clock::time_point last_{};
  bool open_ = false;
};

/// The text of one line of the bar, `width` characters at most.
std::string bar_line(const std::string& label, double share, const std::string& text, size_t width);

}  // namespace halfstep::train
