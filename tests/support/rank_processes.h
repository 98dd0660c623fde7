#pragma once
#include "halfstep/dist/launch_environment.h"

#include <chrono>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "tests/support/temp_folder.h"
#include <gtest/gtest.h>

namespace halfstep::testing {

/// What became of a process of a job.
struct RankResult {
  int status = 0;      ///< exit status, 128 + N after signal N
  std::string output;  ///< both streams
  double seconds = 0;  ///< from the start of the job to its end
};

struct RankOptions {
  std::chrono::seconds limit = std::chrono::seconds(120);  ///< then those that are left are killed
  uint16_t port = 0;                                       ///< 0: a free one
  std::vector<int> started = {};                           ///< these ranks alone; empty: all
};

/// Runs `body` in `count` real processes, the ranks of a job, one thread each. Each is this program
/// again, with the calling test as its filter: it comes by the same call, runs `body` there, and
/// ends. So a test runs twice: what it does before the call must be cheap, and what comes after it
/// is this process's alone.
std::vector<RankResult> on_ranks(int count,
                                 const std::function<void(const dist::LaunchEnvironment&)>& body,
                                 const RankOptions& options = {});

/// The same; expects that all end well, and shows the output of those that don't.
void expect_on_ranks(int count, const std::function<void(const dist::LaunchEnvironment&)>& body,
                     const RankOptions& options = {});

/// Whether this process is one that on_ranks has started.
bool is_rank_process();

/// A new folder of the process that starts ranks, removed with it; its ranks get the same one.
class RankFolder {
 public:
  RankFolder();
  std::filesystem::path path() const;

 private:
  std::optional<TempFolder> own_;
};

/// A port that nobody listens on now.
uint16_t free_port();

/// A socket that listens on a port until it goes.
class BusyPort {
 public:
  BusyPort();
  ~BusyPort();
  BusyPort(const BusyPort&) = delete;
  BusyPort& operator=(const BusyPort&) = delete;
  uint16_t number() const { return number_; }

 private:
  uint16_t number_ = 0;
  int descriptor_ = -1;
};

}  // namespace halfstep::testing
