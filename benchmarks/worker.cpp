// The C++ side of the benchmark: benchmarks/bench.py says on standard input, one JSON object a
// line, what to prepare and to sample, and reads one object a line from standard output.
//
//   {"do": "hello"}                                    versions, threads, variants
//   {"do": "check_bytes"}                              counts a known case
//   {"do": "prepare", "id", "workload", "variant", "precision", "file", "batch", "steps"}
//                                                      the first losses, bytes and seconds of
//                                                      steps, and how long a Graph's recorded ones
//                                                      took
//   {"do": "sample", "id", "steps"}                    seconds, and the rate of the reference
//   product
//   {"do": "profile", "id", "steps"}                   seconds in each op itself, and its calls
//   {"do": "forget", "id"}
//   {"do": "quit"}
#include "halfstep/core/error.h"
#include "halfstep/core/low_precision_support.h"
#include "halfstep/core/version.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <iostream>
#include <map>
#include <numeric>
#include <string>

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <c10/util/Exception.h>
#include <torch/types.h>
#include <torch/version.h>

#include "benchmarks/products.h"
#include "benchmarks/profile.h"
#include "benchmarks/tensor_bytes.h"
#include "benchmarks/variants.h"
#include "benchmarks/workload.h"
#include <nlohmann/json.hpp>

namespace {

using halfstep::benchmarks::Step;
using Json = nlohmann::json;

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// GFLOP/s of a 1024³ product: tells a quiet moment from a disturbed one. In bfloat16 where the CPU
// has instructions for it.
double reference_rate() {
  static const bool low = halfstep::low_precision_support(torch::kCPU).bfloat16;
  static const auto matrix = torch::rand({1024, 1024}, low ? torch::kBFloat16 : torch::kFloat);
  const double start = seconds_now();
  for (int i = 0; i < 3; ++i) at::mm(matrix, matrix);
  return 3 * 2 * 1024.0 * 1024.0 * 1024.0 / (seconds_now() - start) / 1e9;
}

Json hello() {
  std::vector<Json> variants;
  for (const auto& v : halfstep::benchmarks::variants())
    variants.push_back({{"name", v.name}, {"images_only", v.images_only}, {"float32", v.float32}});
  return {{"torch", TORCH_VERSION},
          {"halfstep", HALFSTEP_VERSION},
          {"threads", at::get_num_threads()},
          {"workloads", halfstep::benchmarks::Workload::names()},
          {"variants", variants}};
}

// One megabyte, two more, the first freed, half a one more.
Json check_bytes() {
  constexpr int64_t mega = 1 << 20;
  tensor_bytes_start();
  const int64_t before = tensor_bytes_now();
  auto first = at::empty({mega}, at::kByte);
  const auto second = at::empty({mega / 2}, at::kFloat);
  first.reset();
  const auto third = at::empty({mega / 4}, at::kBFloat16);
  const Json result = {{"now", tensor_bytes_now() - before},
                       {"peak", tensor_bytes_peak() - before}};
  tensor_bytes_stop();
  return result;
}

// Seconds of the first steps.
std::vector<double> timed(const Step& step, int steps, std::vector<double>* losses) {
  std::vector<double> seconds;
  for (int i = 0; i < steps; ++i) {
    const double start = seconds_now();
    const auto loss = step();
    if (losses) losses->push_back(loss.item<double>());
    seconds.push_back(seconds_now() - start);
  }
  return seconds;
}

Json prepare(const Json& request, Step& step) {
  using namespace halfstep::benchmarks;
  const Workload workload(request.at("workload"), request.value("batch", 0));
  const std::string variant = request.at("variant");
  if (variant.starts_with("products")) {
    step = products(workload, variant.ends_with("channels_last"));
    return {{"seconds", timed(step, 3, nullptr)}};
  }
  const Variant& chosen = find_variant(variant);
  const std::string file = request.value("file", "");
  tensor_bytes_start();
  const int64_t before = tensor_bytes_now();
  step = chosen.make_step(workload.network(file, chosen.channels_last),
                          workload.batch(file, chosen.channels_last),
                          request.at("precision") == "bf16");
  const int64_t state = tensor_bytes_now() - before;
  tensor_bytes_reset_peak();
  std::vector<double> losses;
  const auto seconds = timed(step, request.value("steps", 3), &losses);
  const int64_t peak = tensor_bytes_peak() - before - state;
  tensor_bytes_stop();
  Json reply{
      {"losses", losses}, {"seconds", seconds}, {"state_bytes", state}, {"peak_bytes", peak}};
  if (const auto recorded = recorded_steps(step); recorded > 0)
    reply["recording_seconds"] = std::accumulate(seconds.begin(), seconds.begin() + recorded, 0.0);
  return reply;
}

// One untimed step first: others ran since.
Json sample(const Step& step, int64_t steps) {
  step();
  const double before = reference_rate();
  const double start = seconds_now();
  for (int64_t i = 0; i < steps; ++i) step();
  const double seconds = seconds_now() - start;
  return {{"seconds", seconds / static_cast<double>(steps)},
          {"reference", std::min(before, reference_rate())}};
}

Json profile(const Step& step, int64_t steps) {
  Json result = Json::object();
  for (const auto& [name, op] : halfstep::benchmarks::profile(step, steps))
    result[name] = {{"seconds", op.seconds}, {"calls", op.calls}};
  return result;
}

}  // namespace

int main() {
  std::map<std::string, Step> prepared;
  reference_rate();
  for (std::string line; std::getline(std::cin, line);) {
    Json reply;
    try {
      const Json request = Json::parse(line);
      const std::string what = request.at("do");
      if (what == "quit") return 0;
      if (what == "hello") {
        reply = hello();
      } else if (what == "check_bytes") {
        reply = check_bytes();
      } else if (what == "prepare") {
        Step step;
        reply = prepare(request, step);
        prepared[request.at("id")] = std::move(step);
      } else if (what == "sample") {
        reply = sample(prepared.at(request.at("id")), request.at("steps"));
      } else if (what == "profile") {
        reply = {{"ops", profile(prepared.at(request.at("id")), request.at("steps"))}};
      } else if (what == "forget") {
        prepared.erase(request.at("id").get<std::string>());
        reply = Json::object();
      } else {
        reply = {{"error", "no such request: " + what}};
      }
    } catch (const c10::Error& error) {
      reply = {{"error", error.what_without_backtrace()}};
    } catch (const std::exception& error) {
      reply = {{"error", error.what()}};
    }
    std::cout << reply.dump() << std::endl;
  }
}
