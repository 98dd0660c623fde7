// The halfstep command with one flaw: HALFSTEP_FAULT=POINT:N kills the process (kill -9) the Nth
// time a file being written reaches POINT (see detail::set_fault_hook in
// halfstep/train/files/atomic_file.h). With HALFSTEP_HANG=POINT:N it stands still there for ever,
// alive.
#include "halfstep/train/files/atomic_file.h"
#include "halfstep/train/main.h"

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <string>
#include <thread>

namespace {
std::string fault_point;
int passes_left = 0;
bool hangs = false;

void fail_at_point(const char* point) {
  if (point != fault_point || --passes_left != 0) return;
  if (!hangs) std::raise(SIGKILL);
  std::this_thread::sleep_for(std::chrono::hours(1));
}
}  // namespace

int main(int argc, char** argv) {
  const char* hang = std::getenv("HALFSTEP_HANG");
  hangs = hang != nullptr;
  if (const char* fault = hangs ? hang : std::getenv("HALFSTEP_FAULT")) {
    const std::string text = fault;
    const auto colon = text.find(':');
    fault_point = text.substr(0, colon);
    passes_left = std::stoi(text.substr(colon + 1));
    halfstep::train::detail::set_fault_hook(fail_at_point);
  }
  return halfstep::train::main(argc, argv);
}
