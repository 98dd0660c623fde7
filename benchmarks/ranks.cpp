// One rank of benchmarks/scaling.py, which says on standard input, one JSON object a line, what to
// do, to all ranks at once, and reads one object a line from standard output.
//
//   {"do": "hello"}                                    versions, threads, rank
//   {"do": "prepare", "workload", "precision", "batch", "compression", "bucket_cap_mb", "views"}
//                                                      the first losses and seconds of steps
//   {"do": "sample", "kind", "steps"}                  seconds a step, and the rate of the
//   reference product; kind is train, compute (no exchange) or exchange (the gradients as they are,
//   alone)
//   {"do": "quit"}
#include "halfstep/autocast/autocast.h"
#include "halfstep/core/error.h"
#include "halfstep/core/version.h"
#include "halfstep/dist/gradient_reducer.h"
#include "halfstep/dist/process_group.h"
#include "halfstep/optim/adam.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <iostream>
#include <memory>
#include <string>
#include <utility>

#include <ATen/Parallel.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <c10/util/Exception.h>
#include <torch/types.h>
#include <torch/version.h>

#include "benchmarks/workload.h"
#include <nlohmann/json.hpp>

namespace {

using namespace halfstep;
using Json = nlohmann::json;

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// GFLOP/s of a 1024³ float32 product, on all ranks at once: not every CPU is good at bfloat16.
double reference_rate() {
  static const auto matrix = torch::rand({1024, 1024});
  const double start = seconds_now();
  for (int i = 0; i < 3; ++i) at::mm(matrix, matrix);
  return 3 * 2 * 1024.0 * 1024.0 * 1024.0 / (seconds_now() - start) / 1e9;
}

dist::GradientCompression compression_of(const std::string& name) {
  return name == "bfloat16"  ? dist::GradientCompression::bfloat16
         : name == "float16" ? dist::GradientCompression::float16
                             : dist::GradientCompression::none;
}

/// A network in training on this rank.
class Training {
 public:
  Training(const Json& request, dist::ProcessGroup& group)
      : group_(group),
        low_(request.at("precision") == "bf16"),
        network_(workload(request).network("", false)),
        batch_(workload(request).batch("", false)),
        adam_(network_->parameters(), low_ ? optim::AdamOptions(1e-3).shadow_weights(at::kBFloat16)
                                           : optim::AdamOptions(1e-3)) {
    if (group.world_size() == 1) return;
    dist::DistributedDataParallelOptions options;
    options.bucket_cap_mb(request.value("bucket_cap_mb", options.bucket_cap_mb()));
    options.gradient_compression(compression_of(request.value("compression", "none")));
    options.gradient_as_bucket_view(request.value("views", false));
    reducer_ =
        std::make_unique<dist::GradientReducer>(network_->named_parameters(), group, options);
    for (const auto& parameter : network_->parameters()) bytes_ += parameter.nbytes();
    if (options.gradient_compression() != dist::GradientCompression::none) bytes_ /= 2;
  }

  int64_t gradient_bytes() const { return static_cast<int64_t>(bytes_); }

  at::Tensor train(bool exchange) {
    adam_.zero_grad();
    at::Tensor loss;
    if (exchange && reducer_) reducer_->prepare_for_forward();
    {
      const Autocast region(AutocastOptions(at::kCPU).enabled(low_).dtype(at::kBFloat16));
      loss = at::cross_entropy_loss(network_->forward(batch_.input), batch_.target);
    }
    if (exchange && reducer_) reducer_->prepare_for_backward({loss});
    loss.backward();
    if (exchange && reducer_) reducer_->check_reduced();
    adam_.step();
    return loss;
  }

  /// As many bytes as the gradients have, at once and with nothing beside it.
  void exchange() {
    if (!sent_.defined()) sent_ = at::empty({gradient_bytes() / 4}, torch::kFloat).fill_(1);
    group_.all_reduce_(sent_);
    sent_.fill_(1);
  }

 private:
  static benchmarks::Workload workload(const Json& request) {
    return {request.at("workload"), request.value("batch", 0)};
  }

  dist::ProcessGroup& group_;
  bool low_;
  std::shared_ptr<train::Model> network_;
  benchmarks::Batch batch_;
  optim::Adam adam_;
  std::unique_ptr<dist::GradientReducer> reducer_;
  at::Tensor sent_;
  size_t bytes_ = 0;
};

Json prepare(const Json& request, dist::ProcessGroup& group, std::unique_ptr<Training>& training) {
  training.reset();
  training = std::make_unique<Training>(request, group);
  std::vector<double> losses;
  double seconds = 0;
  for (int i = 0; i < 4; ++i) {
    const double start = seconds_now();
    losses.push_back(training->train(true).item<double>());
    seconds = seconds_now() - start;
  }
  return {{"losses", losses}, {"seconds", seconds}, {"gradient_bytes", training->gradient_bytes()}};
}

// One untimed step first: others ran since.
Json sample(const Json& request, dist::ProcessGroup& group, Training& training) {
  const std::string kind = request.at("kind");
  const int64_t steps = request.at("steps");
  const auto step = [&] {
    if (kind == "exchange")
      training.exchange();
    else
      training.train(kind == "train");
  };
  step();
  group.barrier();
  const double before = reference_rate();
  group.barrier();
  const double start = seconds_now();
  for (int64_t i = 0; i < steps; ++i) step();
  group.barrier();
  const double seconds = seconds_now() - start;
  return {{"seconds", seconds / static_cast<double>(steps)},
          {"reference", std::min(before, reference_rate())}};
}

Json answer(const Json& request, dist::ProcessGroup& group, std::unique_ptr<Training>& training) {
  const std::string what = request.at("do");
  if (what == "hello")
    return {{"torch", TORCH_VERSION},
            {"halfstep", HALFSTEP_VERSION},
            {"threads", at::get_num_threads()},
            {"rank", group.rank()},
            {"ranks", group.world_size()}};
  if (what == "prepare") return prepare(request, group, training);
  if (what == "sample") {
    HALFSTEP_CHECK_USAGE(training, "scaling",
                         "sample must come after prepare, but came before; "
                         "prepare a workload");
    return sample(request, group, *training);
  }
  return {{"error", "no such request: " + what}};
}

}  // namespace

int main() {
  dist::ProcessGroup group(dist::launch_environment());
  std::unique_ptr<Training> training;
  reference_rate();
  for (std::string line; std::getline(std::cin, line);) {
    Json reply;
    try {
      const Json request = Json::parse(line);
      if (request.at("do") == "quit") break;
      reply = answer(request, group, training);
    } catch (const c10::Error& error) {
      reply = {{"error", error.what_without_backtrace()}};
    } catch (const std::exception& error) {
      reply = {{"error", error.what()}};
    }
    std::cout << reply.dump() << std::endl;
  }
}
