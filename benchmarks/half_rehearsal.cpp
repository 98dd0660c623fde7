// Times an epoch in rehearsed float16 against one in float32, on the CPU: the MLP and the conv net
// of configs/, and a small transformer, trained as `halfstep train` does, in turns of a few steps.
//
//   halfstep_half_rehearsal [turns = 20] [network]        fails where an epoch takes more than 1.3
//   × halfstep_half_rehearsal 1                             that it runs; its times mean nothing
#include "halfstep/autocast.h"
#include "halfstep/optim.h"
#include "halfstep/scaling.h"
#include "halfstep/train/models/conv_net.h"
#include "halfstep/train/models/gpt.h"
#include "halfstep/train/models/mlp.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <ATen/Parallel.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <torch/types.h>
#include <torch/utils.h>

#include "benchmarks/profile.h"

namespace {

using halfstep::train::Model;

struct Network {
  const char* name;
  int64_t steps;  // in an epoch
  std::function<std::shared_ptr<Model>()> make;
  std::function<at::Tensor()> input;
  int64_t targets, classes;
};

// Images: an epoch of MNIST in batches of 64. The transformer: 1,024 sequences of 128 tokens.
const Network networks[] = {
    {"mlp 784-256-10", 938,
     [] {
       return std::make_shared<halfstep::train::Mlp>(
           halfstep::train::Mlp::Options{{784, 256, 10}, "relu"});
     },
     [] {
       return torch::rand({64, 784});
     },
     64, 10},
    {"conv net 16-32", 938,
     [] { return std::make_shared<halfstep::train::ConvNet>(halfstep::train::ConvNet::Options{}); },
     [] {
       return torch::rand({64, 1, 28, 28});
     },
     64, 10},
    {"gpt 4 x 256", 64,
     [] { return std::make_shared<halfstep::train::Gpt>(halfstep::train::Gpt::Options{}); },
     [] {
       return torch::randint(256, {16, 128}, torch::kLong);
     },
     16 * 128, 256},
};

/// A training run in one precision.
class Run {
 public:
  Run(const Network& network, bool half) : half_(half) {
    torch::manual_seed(0);
    model_ = network.make();
    input_ = network.input();
    target_ = torch::randint(network.classes, {network.targets}, torch::kLong);
    halfstep::optim::AdamOptions options(1e-3);
    if (half) {
      options.shadow_weights(at::kHalf);
      halfstep::optim::set_gradient_dtype(model_->parameters(), at::kHalf);
    }
    optimizer_ = std::make_unique<halfstep::optim::Adam>(model_->parameters(), options);
    scaler_ = halfstep::GradScaler(halfstep::GradScalerOptions(at::kCPU).enabled(half));
  }

  at::Tensor step() {
    const halfstep::HalfRehearsal rehearsal(half_);
    optimizer_->zero_grad();
    at::Tensor loss;
    {
      const halfstep::Autocast autocast(
          halfstep::AutocastOptions(at::kCPU).enabled(half_).dtype(at::kHalf));
      loss = at::cross_entropy_loss(model_->forward(input_), target_);
    }
    scaler_.scale(loss).backward();
    scaler_.step(*optimizer_);
    scaler_.update();
    return loss;
  }

  /// Seconds of `steps` steps.
  double time(int64_t steps) {
    step();  // the other run was in the caches
    const auto start = std::chrono::steady_clock::now();
    for (int64_t i = 0; i < steps; ++i) step();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }

 private:
  bool half_;
  std::shared_ptr<Model> model_;
  at::Tensor input_, target_;
  std::unique_ptr<halfstep::optim::Adam> optimizer_;
  halfstep::GradScaler scaler_;
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

void print_profile(const char* what, Run& run, int64_t steps) {
  std::vector<std::pair<double, std::string>> rows;
  for (const auto& [name, op] : halfstep::benchmarks::profile([&] { return run.step(); }, steps))
    rows.emplace_back(op.seconds, c10::str(name, " x", op.calls));
  std::sort(rows.rbegin(), rows.rend());
  for (size_t i = 0; i < std::min<size_t>(rows.size(), 22); ++i)
    std::printf("  %s %8.1f us  %s\n", what, rows[i].first * 1e6, rows[i].second.c_str());
}

}  // namespace

int main(int argc, char** argv) {
  const int turns = argc > 1 ? std::atoi(argv[1]) : 20;
  bool fits = true;
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  std::printf("%d threads; seconds an epoch, by turns\n", at::get_num_threads());
  for (const auto& network : networks) {
    if (argc > 2 && !std::strstr(network.name, argv[2])) continue;
    Run single(network, false), half(network, true);
    const auto uses = halfstep::HalfRehearsal::uses();
    const int64_t steps = turns == 1 ? 1 : std::max<int64_t>(1, network.steps / turns);
    std::vector<double> ratios;
    double seconds[2] = {0, 0};
    for (int turn = 0; turn < turns; ++turn) {
      const double in_single = single.time(steps), in_half = half.time(steps);
      ratios.push_back(in_half / in_single);
      seconds[0] += in_single;
      seconds[1] += in_half;
    }
    const double epochs = static_cast<double>(turns * steps) / static_cast<double>(network.steps);
    std::printf("%-16s float32 %7.3f  float16 %7.3f  ratio %.2f (median of %d turns %.2f)\n",
                network.name, seconds[0] / epochs, seconds[1] / epochs, seconds[1] / seconds[0],
                turns, median(ratios));
    if (halfstep::HalfRehearsal::uses() == uses) {
      std::printf("nothing was rehearsed\n");
      return 1;
    }
    fits = fits && median(ratios) <= 1.3;
    if (argc > 3) {
      print_profile("f32", single, steps);
      print_profile("f16", half, steps);
    }
  }
  return fits || turns == 1 ? 0 : 1;
}
