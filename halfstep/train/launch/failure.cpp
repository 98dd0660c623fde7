#include "halfstep/train/launch/failure.h"

#include <algorithm>
#include <csignal>
#include <cstring>
#include <string_view>

#include <fmt/format.h>
#include <sys/wait.h>

namespace halfstep::train::detail {

namespace {

// What our process group, Gloo, NCCL and the store say, in lower case.
constexpr std::string_view words_of_loss[] = {
    "all ranks must go on together, but rank",
    "connection reset by peer",
    "connection closed by peer",
    "connection refused",
    "broken pipe",
    "timed out",
    "timeout",
    "remote process exited",
    "recv() failed",
    "failed to recv",
    "peer is gone",
};

std::string lower_case(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : static_cast<char>(c);
  });
  return text;
}

// The lower, the more likely the cause.
int order_of(const RankEnding& ending) {
  if (!ending.is_failure()) return 5;
  if (ending.suspended) return 0;
  // It answered nobody; only a rank that ended by itself for a reason of its own explains more.
  if (ending.outlived) return 3;
  if (WIFSIGNALED(ending.wait_status)) return 1;
  return is_loss_of_a_peer(ending.last_lines) ? 4 : 2;
}

}  // namespace

int exit_status(int wait_status) {
  return WIFSIGNALED(wait_status) ? 128 + WTERMSIG(wait_status) : WEXITSTATUS(wait_status);
}

bool is_loss_of_a_peer(const std::vector<std::string>& lines) {
  return std::any_of(lines.begin(), lines.end(), [](const std::string& line) {
    const auto text = lower_case(line);
    return std::any_of(std::begin(words_of_loss), std::end(words_of_loss),
                       [&](const auto words) { return text.find(words) != text.npos; });
  });
}

const RankEnding& find_cause(const std::vector<RankEnding>& endings) {
  return *std::min_element(endings.begin(), endings.end(),
                           [](const auto& a, const auto& b) { return order_of(a) < order_of(b); });
}

std::string describe(const RankEnding& ending) {
  const auto who = fmt::format("rank {} (process {})", ending.rank, ending.pid);
  if (ending.suspended) return who + " was suspended (SIGSTOP) and did not go on";
  if (ending.outlived) return who + " hung: it did not end with the others";
  if (!WIFSIGNALED(ending.wait_status))
    return fmt::format("{} ended with status {}", who, WEXITSTATUS(ending.wait_status));
  const int signal = WTERMSIG(ending.wait_status);
  return fmt::format("{} was killed by SIG{}{}", who, ::sigabbrev_np(signal),
                     signal == SIGKILL ? ", as the system does where memory runs out" : "");
}

}  // namespace halfstep::train::detail
