#include "halfstep/train/hooks/progress_bar.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

namespace halfstep::train {

namespace {
size_t terminal_width() {
  winsize size{};
  return ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}
}  // namespace

std::string bar_line(const std::string& label, double share, const std::vector<std::string>& fields,
                     size_t width) {
  constexpr size_t least_bar = 5;
  constexpr size_t most_bar = 30;
  const size_t fixed = label.size() + std::string_view(" []").size();
  std::string text;
  for (const auto& field : fields) {
    if (!text.empty() && fixed + least_bar + text.size() + 1 + field.size() > width) break;
    text += " " + field;
  }
  const size_t taken = fixed + text.size();
  const size_t room = std::min(width > taken ? width - taken : 0, most_bar);
  std::string line = label;
  if (room >= least_bar) {
    const auto filled = std::min(room, static_cast<size_t>(share * static_cast<double>(room)));
    line += fmt::format(" [{:=<{}}{:{}}]", "", filled, filled < room ? ">" : "", room - filled);
  }
  return (line + text).substr(0, width);
}

bool ProgressBar::fits() {
  const char* terminal = std::getenv("TERM");
  return ::isatty(STDOUT_FILENO) == 1 && terminal != nullptr &&
         std::string_view(terminal) != "dumb";
}

bool ProgressBar::due() const {
  return std::chrono::steady_clock::now() - last_ >= std::chrono::milliseconds(100);
}

void ProgressBar::draw(const std::string& label, double share,
                       const std::vector<std::string>& fields, bool now) {
  if (!now && !due()) return;
  last_ = std::chrono::steady_clock::now();
  // The last column stays free: some terminals wrap when it is written.
  fmt::print("\r\x1b[K{}", bar_line(label, share, fields, terminal_width() - 1));
  std::fflush(stdout);
  open_ = true;
}

void ProgressBar::end() {
  if (open_) std::fputs("\n", stdout);
  std::fflush(stdout);
  open_ = false;
}

}  // namespace halfstep::train
