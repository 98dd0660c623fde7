// What a Graph saves where ops are small and what recording costs, on one thread of the CPU:
//
// - nanoseconds an op of a chain of ops on four numbers: eager under NoGradGuard, eager with
//   autograd, replayed;
// - microseconds a training step of small networks with Adam, in float32 and in bfloat16 autocast
//   (which means nothing on a CPU without bfloat16 products): eager and replayed, and recording as
//   a multiple of the eager step.
//
// The figures are medians of turns in which each has its share.
//
//   halfstep_graph_replay [turns = 30]     1: only that it runs; its times mean nothing
#include "halfstep/autocast.h"
#include "halfstep/graph.h"
#include "halfstep/optim.h"
#include "halfstep/train/models/mlp.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <torch/types.h>
#include <torch/utils.h>

namespace {

using halfstep::Graph;
using torch::Tensor;
using Clock = std::chrono::steady_clock;

double seconds(const std::function<void()>& call, int64_t times = 1) {
  const auto start = Clock::now();
  for (int64_t i = 0; i < times; ++i) call();
  return std::chrono::duration<double>(Clock::now() - start).count() / double(times);
}

double median(std::vector<double> times) {
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

/// Median seconds of a call of each, by turns.
std::vector<double> by_turns(int turns, int64_t times,
                             const std::vector<std::function<void()>>& calls) {
  std::vector<std::vector<double>> taken(calls.size());
  for (const auto& call : calls) seconds(call, 3);
  for (int turn = 0; turn < turns; ++turn) {
    for (size_t i = 0; i < calls.size(); ++i) taken[i].push_back(seconds(calls[i], times));
  }
  std::vector<double> medians;
  for (auto& times_of_one : taken) medians.push_back(median(std::move(times_of_one)));
  return medians;
}

constexpr int kOps = 64;

/// Nothing in it is fused or computed once.
Tensor chain(Tensor x) {
  for (int i = 0; i < kOps; ++i) x = x.sin();
  return x;
}

struct Chain : Graph<Tensor(Tensor)> {
  Tensor build(const Tensor& x) override { return chain(x); }
};

void an_op(int turns) {
  const auto x = torch::ones({4});
  const auto leaf = torch::ones({4}).requires_grad_();
  Chain graph;
  const auto times = by_turns(turns, 200,
                              {[&] {
                                 const torch::NoGradGuard no_grad;
                                 chain(x);
                               },
                               [&] { chain(leaf); }, [&] { graph(x); }});
  std::printf("%-28s%14s%14s%14s\n", "nanoseconds an op", "NoGradGuard", "autograd", "replayed");
  std::printf("%-28s%14.0f%14.0f%14.0f\n", "sin of 4 numbers", times[0] / kOps * 1e9,
              times[1] / kOps * 1e9, times[2] / kOps * 1e9);
}

/// A network, its optimizer and a batch of 64.
struct Training {
  explicit Training(std::vector<int64_t> widths) {
    torch::manual_seed(1);
    input = torch::randn({64, widths.front()});
    target = torch::randint(widths.back(), {64}, torch::kLong);
    net = std::make_shared<halfstep::train::Mlp>(
        halfstep::train::Mlp::Options{std::move(widths), "relu"});
    adam = std::make_unique<halfstep::optim::Adam>(net->parameters(),
                                                   halfstep::optim::AdamOptions(1e-3));
  }
  Tensor loss(const Tensor& x, const Tensor& y) const {
    return at::cross_entropy_loss(net->forward(x), y);
  }

  std::shared_ptr<halfstep::train::Model> net;
  std::unique_ptr<halfstep::optim::Adam> adam;
  Tensor input, target;
};

struct TrainingGraph : Graph<Tensor(Tensor, Tensor)> {
  explicit TrainingGraph(const Training& of) : training(of) {
    register_module("net", of.net);
    add_optimizer(*of.adam);
  }
  Tensor build(const Tensor& x, const Tensor& y) override {
    const auto loss = training.loss(x, y);
    loss.backward();
    return loss;
  }
  const Training& training;
};

/// What a process does once, as trying kernels, is not what a recording takes.
void warm_up() {
  const Training first({32, 16, 10});
  TrainingGraph graph(first);
  for (int i = 0; i < 3; ++i) graph(first.input, first.target);
}

void a_step(int turns, bool amp, const std::string& name, const std::vector<int64_t>& widths) {
  const Training eager(widths), recorded(widths);
  TrainingGraph graph(recorded);
  if (amp) graph.config().enable_amp(true, torch::kBFloat16);
  const auto step = [&] {
    eager.adam->zero_grad();
    Tensor loss;
    {
      const halfstep::Autocast autocast(
          halfstep::AutocastOptions(torch::kCPU).enabled(amp).dtype(torch::kBFloat16));
      loss = eager.loss(eager.input, eager.target);
    }
    loss.backward();
    eager.adam->step();
  };
  const auto replay = [&] { graph(recorded.input, recorded.target); };
  seconds(step, 3);
  const auto recording = seconds(replay, 2) * 2;  // both calls that record
  const auto times = by_turns(turns, 20, {step, replay});
  if (graph.replayed_steps() == 0) {
    std::fprintf(stderr, "nothing was replayed: %s\n", graph.last_reason().c_str());
    std::exit(1);
  }
  std::printf("%-28s%14.1f%14.1f%13.2fx%13.1fx\n",
              (name + (amp ? ", bfloat16" : ", float32")).c_str(), times[0] * 1e6, times[1] * 1e6,
              times[0] / times[1], recording / times[0]);
}

}  // namespace

int main(int argc, char** argv) {
  const int turns = std::max(argc > 1 ? std::atoi(argv[1]) : 30, 1);
  at::set_num_threads(1);
  an_op(turns);
  std::printf("\n%-28s%14s%14s%14s%14s\n", "microseconds a step", "eager", "replayed", "faster",
              "recording");
  warm_up();
  for (const bool amp : {false, true}) {
    a_step(turns, amp, "mlp 32-16-10", {32, 16, 10});
    a_step(turns, amp, "mlp 784-256-10", {784, 256, 10});
  }
  return 0;
}
