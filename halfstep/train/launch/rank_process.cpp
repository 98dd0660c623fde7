#include "halfstep/train/launch/rank_process.h"

#include "halfstep/core/error.h"

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <fstream>
#include <utility>

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

namespace halfstep::train::detail {

namespace {

std::array<int, 2> open_pipe() {
  std::array<int, 2> ends{};
  HALFSTEP_CHECK_ENVIRONMENT(::pipe2(ends.data(), O_CLOEXEC) == 0, "dist-train",
                             "a pipe to a rank must open, but LibC says: ", std::strerror(errno),
                             "; start fewer ranks, or raise ulimit -n");
  ::fcntl(ends[0], F_SETFL, O_NONBLOCK);
  return ends;
}

// Everything the new process needs, made before it is: between fork and exec it may not allocate.
struct Start {
  const char* program;
  std::vector<char*> words;
  std::vector<char*> environment;
  pid_t parent = ::getpid();
  int output;  // -1: the parent's
  int errors;
};

[[noreturn]] void become(const Start& start) {
  ::setpgid(0, 0);
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != start.parent) ::_exit(127);  // the parent has died before that line
  // A process group in the background may write to the terminal, whatever `stty tostop` says.
  ::signal(SIGTTOU, SIG_IGN);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  const int empty = ::open("/dev/null", O_RDONLY);
  if (empty >= 0) ::dup2(empty, STDIN_FILENO);
  if (start.output >= 0) ::dup2(start.output, STDOUT_FILENO);
  ::dup2(start.errors, STDERR_FILENO);
  ::execvpe(start.program, start.words.data(), start.environment.data());
  const char* why = ::strerrordesc_np(errno);
  for (const char* text : {"error: can't run ", start.program, ": ", why ? why : "?", "\n"})
    [[maybe_unused]] const auto written = ::write(STDERR_FILENO, text, std::strlen(text));
  ::_exit(127);
}

}  // namespace

std::vector<char*> null_terminated(std::vector<std::string>& texts) {
  std::vector<char*> result;
  for (auto& text : texts) result.push_back(text.data());
  result.push_back(nullptr);
  return result;
}

RankProcess::RankProcess(int rank, const ProcessCommand& command, const dist::Variables& variables)
    : rank_(rank) {
  auto words = command.words;
  auto all = dist::process_variables();
  for (const auto& [name, value] : variables) all[name] = value;
  std::vector<std::string> entries;
  for (const auto& [name, value] : all) entries.push_back(name + "=" + value);
  std::array<int, 2> output{-1, -1};
  if (rank != 0) output = open_pipe();
  const auto errors = open_pipe();
  const Start start{.program = command.program.c_str(),
                    .words = null_terminated(words),
                    .environment = null_terminated(entries),
                    .output = output[1],
                    .errors = errors[1]};
  pid_ = ::fork();
  if (pid_ == 0) become(start);
  const int error = errno;
  if (output[1] >= 0) ::close(output[1]);
  ::close(errors[1]);
  output_.descriptor = output[0];
  errors_.descriptor = errors[0];
  HALFSTEP_CHECK_ENVIRONMENT(pid_ > 0, "dist-train", "rank ", rank,
                             " must start, but LibC says: ", std::strerror(error),
                             "; start fewer ranks, or raise ulimit -u");
  ::setpgid(pid_, pid_);  // whoever of the two comes first
}

RankProcess::~RankProcess() {
  if (pid_ > 0 && is_running()) {
    send(SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  for (auto* pipe : {&output_, &errors_})
    if (pipe->descriptor >= 0) ::close(pipe->descriptor);
}

std::vector<int> RankProcess::open_pipes() const {
  std::vector<int> open;
  for (const auto* pipe : {&output_, &errors_})
    if (pipe->descriptor >= 0) open.push_back(pipe->descriptor);
  return open;
}

void RankProcess::read_pipe(int descriptor, const LineTail::Sink& show) {
  auto& pipe = descriptor == output_.descriptor ? output_ : errors_;
  std::array<char, 65536> buffer;
  while (pipe.descriptor >= 0) {
    const auto size = ::read(pipe.descriptor, buffer.data(), buffer.size());
    if (size > 0) {
      pipe.tail.add({buffer.data(), static_cast<size_t>(size)}, show);
    } else if (size < 0 && errno == EINTR) {
      continue;
    } else if (size < 0 && errno == EAGAIN) {
      return;
    } else {
      close_pipe(pipe, show);
    }
  }
}

void RankProcess::close_pipe(Pipe& pipe, const LineTail::Sink& show) {
  pipe.tail.finish(show);
  ::close(std::exchange(pipe.descriptor, -1));
}

bool RankProcess::reap(const LineTail::Sink& show) {
  if (!is_running()) return false;
  siginfo_t info{};
  const bool asked =
      ::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) == 0;
  if (!asked || info.si_pid != pid_) return false;
  send(SIGKILL);  // what it left behind in its group, whose number is taken until it is waited for
  int status = 0;
  ::waitpid(pid_, &status, 0);
  wait_status_ = status;
  for (auto* pipe : {&output_, &errors_}) {
    if (pipe->descriptor >= 0) read_pipe(pipe->descriptor, show);
    if (pipe->descriptor >= 0) close_pipe(*pipe, show);
  }
  return true;
}

void RankProcess::send(int signal) const {
  ::kill(-pid_, signal);
}

bool RankProcess::is_suspended() const {
  std::ifstream file("/proc/" + std::to_string(pid_) + "/stat");
  std::string text;
  std::getline(file, text);
  // "pid (name) state …"; a name may hold anything, but the last ) ends it.
  const auto end = text.rfind(')');
  return end != text.npos && text.size() > end + 2 && text[end + 2] == 'T';
}

}  // namespace halfstep::train::detail
