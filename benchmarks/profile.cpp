#include "benchmarks/profile.h"

#include <chrono>
#include <memory>

#include <ATen/record_function.h>

namespace halfstep::benchmarks {
namespace {

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::map<std::string, OpTime> times;
double children = 0;  // seconds in what the op that runs has called so far

struct Running : at::ObserverContext {
  double start = 0;
  double children_before = 0;
};

std::unique_ptr<at::ObserverContext> begin(const at::RecordFunction&) {
  auto running = std::make_unique<Running>();
  running->children_before = children;
  children = 0;
  running->start = seconds_now();
  return running;
}

void end(const at::RecordFunction& function, at::ObserverContext* context) {
  const auto* running = static_cast<Running*>(context);
  const double whole = seconds_now() - running->start;
  auto& op = times[function.name()];
  op.seconds += whole - children;
  ++op.calls;
  children = running->children_before + whole;
}

}  // namespace

std::map<std::string, OpTime> profile(const Step& step, int64_t steps) {
  step();
  times.clear();
  children = 0;
  const auto handle = at::addThreadLocalCallback(
      at::RecordFunctionCallback(begin, end)
          .scopes({at::RecordScope::FUNCTION, at::RecordScope::BACKWARD_FUNCTION}));
  const double start = seconds_now();
  for (int64_t i = 0; i < steps; ++i) step();
  const double whole = seconds_now() - start;
  at::removeCallback(handle);
  times[""] = {whole - children, static_cast<double>(steps)};
  for (auto& [name, op] : times) {
    op.seconds /= static_cast<double>(steps);
    op.calls /= static_cast<double>(steps);
  }
  return times;
}

}  // namespace halfstep::benchmarks
