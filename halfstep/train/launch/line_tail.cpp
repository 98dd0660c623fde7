#include "halfstep/train/launch/line_tail.h"

#include <algorithm>
#include <utility>

namespace halfstep::train::detail {

namespace {
constexpr size_t kept_lines = 20;
constexpr size_t longest_line = 4096;
}  // namespace

void LineTail::add(std::string_view bytes, const Sink& sink) {
  while (!bytes.empty()) {
    const auto end = bytes.find('\n');
    const auto part = bytes.substr(0, end);
    line_ += part.substr(0, longest_line - std::min(longest_line, line_.size()));
    if (end == bytes.npos) return;
    take(sink);
    bytes.remove_prefix(end + 1);
  }
}

void LineTail::finish(const Sink& sink) {
  if (!line_.empty()) take(sink);
}

void LineTail::take(const Sink& sink) {
  const auto line = std::exchange(line_, {});
  sink(line);
  if (line.empty()) return;
  last_.push_back(line);
  if (last_.size() > kept_lines) last_.pop_front();
}

}  // namespace halfstep::train::detail
