#include "halfstep/train/launch/supervisor.h"

#include "halfstep/train/launch/failure.h"
#include "halfstep/train/launch/signal_file.h"

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <unordered_set>

#include <fmt/format.h>
#include <poll.h>
#include <sys/wait.h>

namespace halfstep::train::detail {

namespace {

using Clock = RankProcess::Clock;

// How often the states of processes are looked at, which no descriptor tells.
constexpr std::chrono::milliseconds look_every{500};
// So many different lines are remembered.
constexpr size_t remembered_lines = 1000;

class Supervisor {
 public:
  explicit Supervisor(const Job& job) : job_(job), suspended_since_(job.variables.size()) {
    for (size_t i = 0; i < job.variables.size(); ++i)
      ranks_.push_back(std::make_unique<RankProcess>(job.first_rank + static_cast<int>(i),
                                                     job.command, job.variables[i]));
  }

  int run() {
    while (is_any_running()) {
      wait();
      for (const int signal : signals_.read()) take(signal);
      for (auto& rank : ranks_)
        if (rank->reap(sink(*rank))) note_end(*rank);
      look_for_suspended();
      if (deadline_ && Clock::now() >= *deadline_) end_the_rest();
    }
    return report();
  }

 private:
  bool is_any_running() const {
    return std::any_of(ranks_.begin(), ranks_.end(), [](auto& rank) { return rank->is_running(); });
  }

  // Until a signal comes, a pipe has data or it is time to look.
  void wait() {
    std::vector<pollfd> files{{signals_.descriptor(), POLLIN, 0}};
    std::vector<RankProcess*> owners{nullptr};
    for (auto& rank : ranks_)
      for (const int pipe : rank->open_pipes()) {
        files.push_back({pipe, POLLIN, 0});
        owners.push_back(rank.get());
      }
    ::poll(files.data(), files.size(), static_cast<int>(look_every.count()));
    for (size_t i = 1; i < files.size(); ++i)
      if (files[i].revents != 0) owners[i]->read_pipe(files[i].fd, sink(*owners[i]));
  }

  LineTail::Sink sink(const RankProcess& rank) {
    return [this, &rank](const std::string& line) { show(rank.rank(), line); };
  }

  void show(int rank, const std::string& line) {
    const bool is_new = line.empty() || shown_.count(line) == 0;
    if (is_new && shown_.size() < remembered_lines) shown_.insert(line);
    if (rank == 0) {
      fmt::print(stderr, "{}\n", line);
    } else if (is_new && !line.empty()) {
      fmt::print(stderr, "[rank {}] {}\n", rank, line);
    }
  }

  void take(int signal) {
    if (signal == SIGCHLD) return;
    if (signal == SIGTSTP) {
      send(SIGSTOP);
      std::raise(SIGSTOP);
      send(SIGCONT);
      return;
    }
    const int passed_on = signal == SIGHUP ? SIGTERM : signal;
    if (signal != SIGUSR1 && ++times_told_ > 1) set_deadline();
    if (stop_signal_ == 0 || signal == SIGINT) stop_signal_ = passed_on;
    send(passed_on);
  }

  void send(int signal) const {
    for (const auto& rank : ranks_)
      if (rank->is_running()) rank->send(signal);
  }

  void set_deadline() {
    if (!deadline_) deadline_ = Clock::now() + job_.patience;
  }

  // A rank that has saved says so by its status, whoever told it; one that was told before it
  // could save is ended by the signal itself.
  bool is_stop(int wait_status) const {
    const int status = exit_status(wait_status);
    if (WIFSIGNALED(wait_status)) return status == 128 + stop_signal_;
    return status == 128 + SIGINT || status == 128 + SIGTERM || status == 128 + SIGUSR1;
  }

  void note_end(const RankProcess& rank, bool outlived = false) {
    const auto status = *rank.wait_status();
    const auto place = index_of(rank);
    const auto& lines = rank.errors().last();
    endings_.push_back({.rank = rank.rank(),
                        .pid = rank.pid(),
                        .wait_status = status,
                        .suspended = found_suspended_ == place,
                        .outlived = outlived,
                        .last_lines = {lines.begin(), lines.end()}});
    if (status == 0 || is_stop(status)) return;
    failed_ = true;
    set_deadline();
  }

  size_t index_of(const RankProcess& rank) const {
    return static_cast<size_t>(rank.rank() - job_.first_rank);
  }

  void look_for_suspended() {
    for (const auto& rank : ranks_) {
      auto& since = suspended_since_[index_of(*rank)];
      if (!rank->is_running() || !rank->is_suspended()) {
        since.reset();
        continue;
      }
      if (!since) since = Clock::now();
      if (Clock::now() - *since < job_.patience || found_suspended_) continue;
      found_suspended_ = index_of(*rank);
      rank->send(SIGKILL);
    }
  }

  void end_the_rest() {
    for (auto& rank : ranks_) {
      if (!rank->is_running()) continue;
      rank->send(SIGKILL);
      while (!rank->reap(sink(*rank))) ::poll(nullptr, 0, 1);
      note_end(*rank, /*outlived=*/true);
    }
  }

  int report() const {
    if (endings_.empty()) return 0;
    const auto& cause = find_cause(endings_);
    const int status = cause.was_ended() ? 1 : exit_status(cause.wait_status);
    if (!failed_) return status;
    fmt::print(stderr, "error: [{}] all ranks must end well, but {}", job_.name, describe(cause));
    if (cause.last_lines.empty()) {
      fmt::print(stderr, " and wrote no error\n");
    } else {
      fmt::print(stderr, "; its last lines:\n");
      for (const auto& line : cause.last_lines) fmt::print(stderr, "  {}\n", line);
    }
    return status;
  }

  const Job& job_;
  SignalFile signals_;  // before the ranks: a signal between their starts must not end this process
  std::vector<std::unique_ptr<RankProcess>> ranks_;
  std::vector<RankEnding> endings_;
  std::vector<std::optional<Clock::time_point>> suspended_since_;
  std::optional<size_t> found_suspended_;
  std::optional<Clock::time_point> deadline_;
  std::unordered_set<std::string> shown_;
  int stop_signal_ = 0;
  int times_told_ = 0;
  bool failed_ = false;
};

}  // namespace

int supervise(const Job& job) {
  std::fflush(stdout);
  return Supervisor(job).run();
}

}  // namespace halfstep::train::detail
