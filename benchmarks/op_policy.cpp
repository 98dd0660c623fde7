// What op policies cost a call, in nanoseconds: the difference to stock autocast of a region
// without a policy after the first use of one, and of a region with one, for an op that autocast
// lists and for one that falls through.
//
// Kernels stay registered once a policy was used, so "before" and "after" are processes of their
// own, by turns; the figures are the least of all rounds, which is what a busy machine allows.
//
//   halfstep_op_policy [rounds]
#include "halfstep/autocast.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include <ATen/Parallel.h>
#include <torch/types.h>

#include <sys/wait.h>
#include <unistd.h>

namespace {

using halfstep::Autocast;
using halfstep::AutocastOptions;
using halfstep::OpPolicy;

/// Least nanoseconds a call over many short batches.
double nanoseconds(const std::function<void()>& call) {
  double least = 1e9;
  for (int batch = 0; batch < 60; ++batch) {
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < 1000; ++i) call();
    const std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - start;
    least = std::min(least, took.count() / 1000);
  }
  return least;
}

struct Op {
  const char* what;
  std::function<void()> call;
};

std::vector<Op> ops() {
  const auto low = torch::randn({4, 4}).to(torch::kBFloat16);
  const auto wide = torch::randn({4, 4});
  const auto list = std::vector<torch::Tensor>{low, low};
  return {{"mm of bfloat16 (16-bit list)", [=] { at::mm(low, low); }},
          {"mm of float32 (cast, 16-bit list)", [=] { at::mm(wide, wide); }},
          {"cat of bfloat16 (promote list)", [=] { at::cat(list); }},
          {"trace of float32 (float32 list)", [=] { at::trace(wide); }},
          {"relu (falls through)", [=] { at::relu(low); }},
          {"softmax (falls through)", [=] { at::softmax(low, 1); }}};
}

enum class Mode { before, after, policy };

std::vector<double> measure(Mode mode) {
  at::set_num_threads(1);
  const torch::NoGradGuard no_grad;
  auto policy = OpPolicy::torch(torch::kCPU);
  policy.set("relu", halfstep::CastRule::lower_precision);
  policy.set("softmax", halfstep::CastRule::lower_precision);
  AutocastOptions options(torch::kCPU);
  if (mode != Mode::before) const Autocast first_use(AutocastOptions(torch::kCPU).policy(policy));
  if (mode == Mode::policy) options.policy(policy);
  const Autocast autocast(options);
  std::vector<double> times;
  for (const auto& op : ops()) times.push_back(nanoseconds(op.call));
  times.push_back(nanoseconds([&] { const Autocast region(options); }));
  return times;
}

/// The same in a process of its own.
std::vector<double> measure_apart(Mode mode, size_t count) {
  int ends[2];
  if (pipe(ends) != 0) std::abort();
  const auto child = fork();
  if (child == 0) {
    const auto times = measure(mode);
    const auto bytes = times.size() * sizeof(double);
    std::_Exit(write(ends[1], times.data(), bytes) == ssize_t(bytes) ? 0 : 1);
  }
  close(ends[1]);
  std::vector<double> times(count);
  const auto bytes = ssize_t(count * sizeof(double));
  const bool whole = read(ends[0], times.data(), count * sizeof(double)) == bytes;
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  if (!whole || status != 0) {
    std::fprintf(stderr, "[op_policy] a measuring process failed\n");
    std::exit(1);
  }
  return times;
}

}  // namespace

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 7;
  std::vector<std::string> names;
  for (const auto& op : ops()) names.push_back(op.what);
  names.push_back("entering and leaving a region");
  const auto count = names.size();
  std::vector<std::vector<double>> least(3, std::vector<double>(count, 1e9));
  for (int round = 0; round < rounds; ++round) {
    for (const auto mode : {Mode::before, Mode::after, Mode::policy}) {
      const auto times = measure_apart(mode, count);
      auto& best = least[size_t(mode)];
      for (size_t i = 0; i < count; ++i) best[i] = std::min(best[i], times[i]);
    }
  }
  std::printf("%d rounds, least of all, ns a call\n%-36s %8s %16s %16s\n", rounds, "op", "stock",
              "no policy after", "policy region");
  for (size_t i = 0; i < count; ++i) {
    std::printf("%-36s %8.0f %8.0f (%+5.0f) %8.0f (%+5.0f)\n", names[i].c_str(), least[0][i],
                least[1][i], least[1][i] - least[0][i], least[2][i], least[2][i] - least[0][i]);
  }
}
