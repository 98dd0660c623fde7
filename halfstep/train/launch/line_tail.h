#pragma once
#include <deque>
#include <functional>
#include <string>
#include <string_view>

namespace halfstep::train::detail {

/// Cuts the output of a process into lines as it comes, and keeps the last ones.
class LineTail {
 public:
  using Sink = std::function<void(const std::string& line)>;

  /// Each whole line, without its end, goes to `sink`. A line is cut at 4096 bytes.
  void add(std::string_view bytes, const Sink& sink);

  /// What stands behind the last line end is a line, too: at the end of the output.
  void finish(const Sink& sink);

  /// The last lines that are not empty, at most 20.
  const std::deque<std::string>& last() const { return last_; }

 private:
  void take(const Sink& sink);

  std::string line_;
  std::deque<std::string> last_;
};

}  // namespace halfstep::train::detail
