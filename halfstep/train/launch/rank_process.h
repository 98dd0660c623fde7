#pragma once
#include "halfstep/dist/launch_environment.h"
#include "halfstep/train/launch/line_tail.h"

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include <sys/types.h>

namespace halfstep::train::detail {

/// What to start: a program and its words (the first is what it is called by).
struct ProcessCommand {
  std::string program;  ///< a path, or a name to look for in PATH
  std::vector<std::string> words;
};

/// What exec and spawn want of words or of an environment; good as long as `texts` is unchanged.
std::vector<char*> null_terminated(std::vector<std::string>& texts);

/// One rank of a job as a process, the leader of a process group of its own, so that a terminal's
/// Ctrl-C reaches it through its parent alone. It dies with its parent, however that ends.
///
/// Rank 0 keeps this process's standard output (a terminal, where there is one, shows its bar); its
/// errors, and all the output of the others, come through pipes. Standard input is empty.
class RankProcess {
 public:
  using Clock = std::chrono::steady_clock;

  /// Starts it with `variables` set besides this process's. Throws EnvironmentError where no
  /// process can be made; a program that can't be run ends with status 127.
  RankProcess(int rank, const ProcessCommand& command, const dist::Variables& variables);

  /// Kills what still runs of the group.
  ~RankProcess();
  RankProcess(const RankProcess&) = delete;
  RankProcess& operator=(const RankProcess&) = delete;

  int rank() const { return rank_; }
  pid_t pid() const { return pid_; }
  bool is_running() const { return !wait_status_; }

  /// Its status as waitpid gives it, once it has ended.
  std::optional<int> wait_status() const { return wait_status_; }

  /// The pipes that are still open, standard output's first.
  std::vector<int> open_pipes() const;

  /// Reads what there is in the pipe, without waiting. Lines for the terminal go to `show`.
  void read_pipe(int pipe, const LineTail::Sink& show);

  /// Asks, without waiting, whether it has ended, and ends the rest of its group where it has.
  /// Returns true the first time.
  bool reap(const LineTail::Sink& show);

  /// Sends the signal to its whole group.
  void send(int signal) const;

  /// Whether it is suspended (SIGSTOP) now.
  bool is_suspended() const;

  /// The last lines of its standard error.
  const LineTail& errors() const { return errors_.tail; }

 private:
  struct Pipe {
    int descriptor = -1;
    LineTail tail;
  };

  void close_pipe(Pipe& pipe, const LineTail::Sink& show);

  int rank_;
  pid_t pid_ = -1;
  std::optional<int> wait_status_;
  Pipe output_;
  Pipe errors_;
};

}  // namespace halfstep::train::detail
