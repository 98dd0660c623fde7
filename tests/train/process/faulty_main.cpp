// The halfstep command with one flaw: HALFSTEP_FAULT=POINT:N kills the process (kill -9) the Nth
// time a file being written reaches POINT (see detail::set_fault_hook in
// halfstep/train/files/atomic_file.h).
#include "halfstep/train/files/atomic_file.h"
#include "halfstep/train/main.h"

#include <csignal>
#include <cstdlib>
#include <string>

namespace {
std::string fault_point;
int passes_left = 0;

void die_at_point(const char* point) {
  if (point == fault_point && --passes_left == 0) std::raise(SIGKILL);
}
}  // namespace

int main(int argc, char** argv) {
  if (const char* fault = std::getenv("HALFSTEP_FAULT")) {
    const std::string text = fault;
    const auto colon = text.find(':');
    fault_point = text.substr(0, colon);
    passes_left = std::stoi(text.substr(colon + 1));
    halfstep::train::detail::set_fault_hook(die_at_point);
  }
  return halfstep::train::main(argc, argv);
}
