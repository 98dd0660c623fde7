#pragma once
#include "halfstep/train/files/atomic_file.h"

#include <array>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <functional>
#include <string>

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

/// Ways to break the writing of a file.
namespace halfstep::testing {

constexpr std::array<const char*, 6> kFaultPoints{"begin",  "half_written", "written",
                                                  "synced", "renamed",      "done"};

/// The point at which the functions below act.
inline const char* fault_point = "";

inline bool is_fault_point(const char* point) {
  return std::strcmp(point, fault_point) == 0;
}

/// Sets a hook for one scope.
class FaultScope {
 public:
  FaultScope(const char* point, train::detail::FaultHook hook) {
    fault_point = point;
    train::detail::set_fault_hook(hook);
  }
  ~FaultScope() { train::detail::set_fault_hook(nullptr); }
};

/// Puts `replacement` in the place of the one temporary file this process has open.
inline void replace_temporary(const char* replacement, int flags) {
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code gone;
    const std::string target = std::filesystem::read_symlink(entry.path(), gone).string();
    if (target.find("/.halfstep-") == std::string::npos) continue;
    const int other = ::open(replacement, flags | O_CLOEXEC);
    ::dup2(other, std::stoi(entry.path().filename().string()));
    ::close(other);
    return;
  }
}

/// Runs `write` in a child that is killed by SIGKILL at `point`. True if that is how it ended.
inline bool killed_at(const char* point, const std::function<void()>& write) {
  const pid_t child = ::fork();
  if (child == 0) {
    const FaultScope scope(point, [](const char* reached) {
      if (is_fault_point(reached)) ::raise(SIGKILL);
    });
    write();
    ::_exit(0);
  }
  int status = 0;
  return ::waitpid(child, &status, 0) == child && WIFSIGNALED(status) &&
         WTERMSIG(status) == SIGKILL;
}

}  // namespace halfstep::testing
