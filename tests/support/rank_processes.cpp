#include "tests/support/rank_processes.h"

#include <cstdlib>
#include <filesystem>
#include <stdexcept>
#include <thread>

#include <ATen/Parallel.h>

#include <fcntl.h>
#include <netinet/in.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

extern char** environ;

namespace halfstep::testing {

namespace {

using Clock = std::chrono::steady_clock;
constexpr const char* kCall = "HALFSTEP_TEST_CALL";
constexpr const char* kFolder = "HALFSTEP_TEST_FOLDER";

// Which call of on_ranks it is in this test.
int next_call() {
  static std::string test;
  static int calls = 0;
  const auto& info = *::testing::UnitTest::GetInstance()->current_test_info();
  const auto name = std::string(info.test_suite_name()) + "." + info.name();
  if (name != test) calls = 0;
  test = name;
  return calls++;
}

std::string this_test() {
  const auto& info = *::testing::UnitTest::GetInstance()->current_test_info();
  return std::string(info.test_suite_name()) + "." + info.name();
}

int number(const char* name) {
  return std::atoi(std::getenv(name));
}

struct Child {
  pid_t pid = -1;
  bool stopped = false;
  std::filesystem::path output;
};

Child start(int rank, int count, int call, uint16_t port, const std::filesystem::path& folder) {
  Child child;
  child.output = folder / ("rank_" + std::to_string(rank));
  std::vector<std::string> variables;
  for (char** each = environ; *each != nullptr; ++each) variables.emplace_back(*each);
  for (const auto& [name, value] :
       {std::pair<std::string, std::string>{"RANK", std::to_string(rank)},
        {"WORLD_SIZE", std::to_string(count)},
        {"LOCAL_RANK", std::to_string(rank)},
        {"LOCAL_WORLD_SIZE", std::to_string(count)},
        {"MASTER_ADDR", "127.0.0.1"},
        {"MASTER_PORT", std::to_string(port)},
        {"OMP_NUM_THREADS", "1"},
        {kCall, std::to_string(call)}}) {
    std::erase_if(variables, [&](const auto& each) { return each.starts_with(name + "="); });
    variables.push_back(name + "=" + value);
  }
  std::vector<char*> environment;
  for (auto& each : variables) environment.push_back(each.data());
  environment.push_back(nullptr);
  auto program = std::filesystem::read_symlink("/proc/self/exe").string();
  auto filter = "--gtest_filter=" + this_test();
  std::string brief = "--gtest_brief=1";
  char* arguments[] = {program.data(), filter.data(), brief.data(), nullptr};
  posix_spawn_file_actions_t files;
  ::posix_spawn_file_actions_init(&files);
  ::posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, child.output.c_str(),
                                     O_WRONLY | O_CREAT | O_TRUNC, 0644);
  ::posix_spawn_file_actions_adddup2(&files, STDOUT_FILENO, STDERR_FILENO);
  const int failed =
      ::posix_spawn(&child.pid, program.c_str(), &files, nullptr, arguments, environment.data());
  ::posix_spawn_file_actions_destroy(&files);
  if (failed != 0) throw std::runtime_error("can't start " + program);
  return child;
}

// In a rank's process: runs the body and ends the process.
[[noreturn]] void be_a_rank(const std::function<void(const dist::LaunchEnvironment&)>& body) {
  at::set_num_threads(1);
  dist::LaunchEnvironment launch;
  launch.rank = launch.local_rank = number("RANK");
  launch.world_size = launch.local_world_size = number("WORLD_SIZE");
  launch.master_port = static_cast<uint16_t>(number("MASTER_PORT"));
  int status = 0;
  try {
    body(launch);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "thrown: %s\n", error.what());
    status = 1;
  }
  if (::testing::Test::HasFailure()) status = 1;
  std::fflush(nullptr);
  std::_Exit(status);
}

int bind_any(uint16_t& port) {
  const int descriptor = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_ANY);
  socklen_t size = sizeof(address);
  if (descriptor < 0 || ::bind(descriptor, reinterpret_cast<sockaddr*>(&address), size) != 0 ||
      ::getsockname(descriptor, reinterpret_cast<sockaddr*>(&address), &size) != 0)
    throw std::runtime_error("no port is free");
  port = ntohs(address.sin_port);
  return descriptor;
}

}  // namespace

uint16_t free_port() {
  uint16_t port = 0;
  ::close(bind_any(port));
  return port;
}

bool is_rank_process() {
  return std::getenv(kCall) != nullptr;
}

RankFolder::RankFolder() {
  if (is_rank_process()) return;
  own_.emplace();
  ::setenv(kFolder, own_->path().c_str(), /*overwrite=*/1);
}

std::filesystem::path RankFolder::path() const {
  return std::getenv(kFolder);
}

BusyPort::BusyPort() : descriptor_(bind_any(number_)) {
  if (::listen(descriptor_, 1) != 0) throw std::runtime_error("can't listen");
}

BusyPort::~BusyPort() {
  ::close(descriptor_);
}

std::vector<RankResult> on_ranks(int count,
                                 const std::function<void(const dist::LaunchEnvironment&)>& body,
                                 const RankOptions& options) {
  const int call = next_call();
  if (const char* wanted = std::getenv(kCall); wanted != nullptr) {
    if (std::atoi(wanted) == call) be_a_rank(body);
    return std::vector<RankResult>(static_cast<size_t>(count));
  }
  const TempFolder folder;
  const auto port = options.port != 0 ? options.port : free_port();
  std::vector<Child> children(static_cast<size_t>(count));
  const auto begin = Clock::now();
  for (int rank = 0; rank < count; ++rank)
    if (options.started.empty() ||
        std::find(options.started.begin(), options.started.end(), rank) != options.started.end())
      children[static_cast<size_t>(rank)] = start(rank, count, call, port, folder.path());
  std::vector<RankResult> results(children.size());
  for (int left = count, stopped = 0; left > 0;) {
    // A stopped one does not end of itself.
    const bool over = Clock::now() - begin > options.limit || stopped == left;
    left = stopped = 0;
    for (size_t i = 0; i < children.size(); ++i) {
      if (children[i].pid < 0) continue;
      if (over) ::kill(children[i].pid, SIGKILL);
      int status = 0;
      const auto changed = ::waitpid(children[i].pid, &status, WNOHANG | WUNTRACED);
      if (changed > 0 && WIFSTOPPED(status)) children[i].stopped = true;
      if (changed == 0 || WIFSTOPPED(status)) {
        ++left;
        stopped += children[i].stopped ? 1 : 0;
        continue;
      }
      children[i].pid = -1;
      results[i].status = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
      results[i].seconds = std::chrono::duration<double>(Clock::now() - begin).count();
      results[i].output = read_file(children[i].output);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return results;
}

void expect_on_ranks(int count, const std::function<void(const dist::LaunchEnvironment&)>& body,
                     const RankOptions& options) {
  const auto results = on_ranks(count, body, options);
  for (size_t rank = 0; rank < results.size(); ++rank)
    EXPECT_EQ(results[rank].status, 0) << "rank " << rank << ":\n" << results[rank].output;
}

}  // namespace halfstep::testing
