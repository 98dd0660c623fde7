#include "halfstep/train/launch/requeue.h"

#include "halfstep/core/error.h"
#include "halfstep/train/launch/failure.h"
#include "halfstep/train/launch/rank_process.h"
#include "halfstep/train/launch/variables.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <fmt/format.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

namespace halfstep::train::detail {

namespace {

// Starts words[0], looked for in PATH, with the usual dispositions of `defaults`. Returns 0 or
// errno.
int start(std::vector<std::string>& words, const sigset_t& defaults, pid_t& child) {
  posix_spawnattr_t attributes;
  ::posix_spawnattr_init(&attributes);
  ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF);
  ::posix_spawnattr_setsigdefault(&attributes, &defaults);
  const int error = ::posix_spawnp(&child, words.front().c_str(), nullptr, &attributes,
                                   null_terminated(words).data(), environ);
  ::posix_spawnattr_destroy(&attributes);
  return error;
}

int wait_for(pid_t child) {
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {}
  return exit_status(status);
}

// Makes the words of a run those that go on with it: a file named after --resume is its past.
void resume_newest(std::vector<std::string>& words) {
  const auto found = std::find(words.begin(), words.end(), "--resume");
  if (found == words.end()) {
    words.emplace_back("--resume");
  } else if (found + 1 != words.end() && found[1].ends_with(".safetensors")) {
    words.erase(found + 1);
  }
}

volatile std::sig_atomic_t passed_on_to = 0;
extern "C" void pass_on(int signal) {
  const int error = errno;
  if (passed_on_to > 0) ::kill(static_cast<pid_t>(passed_on_to), signal);
  errno = error;
}

}  // namespace

bool is_requeued_job(const dist::Variables& variables) {
  const auto* count = find_variable(variables, "SLURM_RESTART_COUNT");
  return count && *count != "0";
}

std::string requeue_job(const dist::Variables& variables) {
  const auto* job = find_variable(variables, "SLURM_JOB_ID");
  if (!job) return "--requeue: this is no Slurm job, so nothing was put back into a queue";
  std::vector<std::string> words{"scontrol", "requeue", *job};
  sigset_t none;
  ::sigemptyset(&none);
  pid_t child = 0;
  const int error = start(words, none, child);
  if (error != 0)
    return fmt::format("--requeue: scontrol could not be run ({})", std::strerror(error));
  const int status = wait_for(child);
  if (status != 0)
    return fmt::format(
        "--requeue: scontrol requeue {} ended with status {}: only batch jobs (sbatch) "
        "can be put back",
        *job, status);
  return fmt::format("put job {} back into the queue", *job);
}

int run_srun(std::vector<std::string> words, const dist::Variables& variables, bool requeue) {
  for (const auto& [name, value] : variables) ::setenv(name.c_str(), value.c_str(), 1);
  sigset_t changed;
  ::sigemptyset(&changed);
  struct sigaction passing {};
  passing.sa_handler = pass_on;
  struct sigaction ignoring {};
  ignoring.sa_handler = SIG_IGN;
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGUSR1}) {
    struct sigaction old {};
    ::sigaction(signal, nullptr, &old);
    if (old.sa_handler == SIG_IGN) continue;
    ::sigaddset(&changed, signal);
    ::sigaction(signal, signal == SIGINT ? &ignoring : &passing, nullptr);
  }
  for (;;) {
    pid_t child = 0;
    const int error = start(words, changed, child);
    HALFSTEP_CHECK_ENVIRONMENT(
        error == 0, "slurm-train",
        "srun must be there to be run, but LibC says: ", std::strerror(error),
        "; run this on a machine of the cluster, or see --dry-run");
    passed_on_to = child;
    const int status = wait_for(child);
    passed_on_to = 0;
    if (!requeue || status != 128 + SIGUSR1) return status;
    fmt::print("saved and stopped by SIGUSR1: submitting the job again\n");
    std::fflush(stdout);
    resume_newest(words);
  }
}

}  // namespace halfstep::train::detail
