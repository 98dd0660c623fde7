// Times an optimizer step with unscaling and clipping: ours against ATen's ops as Python calls them
// one after the other, alternating in one run, on the parameters of the benchmark's four networks.
//
//   halfstep_optimizer_step [rounds]
#include "halfstep/optim.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>

#include <ATen/Parallel.h>
#include <torch/types.h>

namespace {

using Shapes = std::vector<std::vector<int64_t>>;

void add_linear(Shapes& shapes, int64_t in, int64_t out, bool bias = true) {
  shapes.push_back({out, in});
  if (bias) shapes.push_back({out});
}

Shapes mlp(std::vector<int64_t> sizes) {
  Shapes shapes;
  for (size_t i = 0; i + 1 < sizes.size(); ++i) add_linear(shapes, sizes[i], sizes[i + 1]);
  return shapes;
}

Shapes resnet18() {
  Shapes shapes{{64, 1, 3, 3}, {64}, {64}};
  const auto conv = [&](int64_t in, int64_t out, int64_t k) {
    shapes.push_back({out, in, k, k});
    shapes.insert(shapes.end(), 2, {out});
  };
  int64_t in = 64;
  for (const int64_t out : {64, 64, 128, 128, 256, 256, 512, 512}) {
    conv(in, out, 3);
    conv(out, out, 3);
    if (in != out) conv(in, out, 1);
    in = out;
  }
  add_linear(shapes, 512, 10);
  return shapes;
}

Shapes gpt() {
  const int64_t d = 256;
  Shapes shapes{{256, d}, {128, d}};
  for (int block = 0; block < 4; ++block) {
    shapes.insert(shapes.end(), 4, {d});
    add_linear(shapes, d, 3 * d);
    add_linear(shapes, d, d);
    add_linear(shapes, d, 4 * d);
    add_linear(shapes, 4 * d, d);
  }
  shapes.insert(shapes.end(), 2, {d});
  add_linear(shapes, d, 256, false);
  return shapes;
}

std::vector<at::Tensor> tensors(const Shapes& shapes, c10::ScalarType dtype, bool random) {
  std::vector<at::Tensor> result;
  for (const auto& shape : shapes)
    result.push_back((random ? torch::randn(shape) : torch::zeros(shape)).to(dtype));
  return result;
}

double milliseconds(const std::function<void()>& work, int repeats) {
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < repeats; ++i) work();
  const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start;
  return took.count() / repeats;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

/// What Python's scaler.unscale_, clip_grad_norm_ and scaler.step of a fused Adam call.
class Separate {
 public:
  explicit Separate(const Shapes& shapes)
      : parameters_(tensors(shapes, torch::kFloat, true)),
        gradients_(tensors(shapes, torch::kFloat, true)),
        exp_avgs_(tensors(shapes, torch::kFloat, false)),
        exp_avg_sqs_(tensors(shapes, torch::kFloat, false)) {
    for (size_t i = 0; i < shapes.size(); ++i) steps_.push_back(torch::zeros({}));
  }

  void operator()() {
    const torch::NoGradGuard no_grad;
    auto found_inf = torch::zeros({});
    at::_amp_foreach_non_finite_check_and_unscale_(gradients_, found_inf, inv_scale_);
    const auto norm = at::stack(at::_foreach_norm(gradients_, 2)).norm();
    at::_foreach_mul_(gradients_, (kLimit / (norm + 1e-6)).clamp_max(1.0));
    at::_foreach_add_(steps_, 1);
    at::_fused_adam_(parameters_, gradients_, exp_avgs_, exp_avg_sqs_, {}, steps_, 1e-3, 0.9, 0.999,
                     0, 1e-8, false, false, std::nullopt, found_inf);
    at::_foreach_sub_(steps_, std::vector<at::Tensor>(steps_.size(), found_inf));
  }

  // High enough to change nothing: clipped gradients would fade to zero over the repeats.
  static constexpr double kLimit = 1e9;

 private:
  std::vector<at::Tensor> parameters_, gradients_, exp_avgs_, exp_avg_sqs_, steps_;
  at::Tensor inv_scale_ = torch::ones({});
};

using halfstep::optim::AdamOptions;
using halfstep::optim::MasterWeights;

class Together {
 public:
  Together(const Shapes& shapes, c10::ScalarType dtype, c10::ScalarType gradient_dtype,
           AdamOptions options = 1e-3, bool shadows = false)
      : parameters_(tensors(shapes, dtype, true)),
        adam_(parameters_, options.clip_norm(Separate::kLimit)) {
    const auto gradients = tensors(shapes, gradient_dtype, true);
    for (size_t i = 0; i < shapes.size(); ++i) {
      parameters_[i].mutable_grad() = gradients[i];
      parameters_[i].requires_grad_();
    }
    if (shadows) adam_.keep_shadow_weights(torch::kBFloat16);  // of leaves that want gradients
  }

  void operator()() {
    adam_.found_inf = adam_.check_gradients()->at(c10::Device(torch::kCPU));
    adam_.grad_scale = scale_;
    adam_.step();
  }

 private:
  std::vector<at::Tensor> parameters_;
  halfstep::optim::Adam adam_;
  at::Tensor scale_ = torch::ones({});
};

}  // namespace

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 15;
  std::printf(
      "%d threads, %d rounds, medians in ms, in brackets how many times as fast as "
      "separate\nGB/s of ours: of the bytes that must move\n",
      at::get_num_threads(), rounds);
  std::printf("%-10s %9s %9s %16s %6s %16s %16s %16s %16s\n", "network", "numbers", "separate",
              "ours", "GB/s", "bf16 gradients", "+ shadows", "masters", "remainders");
  const std::pair<const char*, Shapes> networks[] = {{"mlp_small", mlp({784, 256, 10})},
                                                     {"mlp_large", mlp({784, 2048, 2048, 10})},
                                                     {"resnet18", resnet18()},
                                                     {"gpt", gpt()}};
  const auto full = torch::kFloat, low = torch::kBFloat16;
  const auto with = [](MasterWeights kind) { return AdamOptions(1e-3).master_weights(kind); };
  for (const auto& [name, shapes] : networks) {
    int64_t numbers = 0;
    for (const auto& shape : shapes) numbers += c10::multiply_integers(shape);
    Separate separate(shapes);
    Together plain(shapes, full, full), low_gradients(shapes, full, low),
        shadows(shapes, full, low, 1e-3, true),
        masters(shapes, low, low, with(MasterWeights::float32)),
        remainders(shapes, low, low, with(MasterWeights::remainder));
    const std::function<void()> works[] = {std::ref(separate),      std::ref(plain),
                                           std::ref(low_gradients), std::ref(shadows),
                                           std::ref(masters),       std::ref(remainders)};
    const int repeats = std::max<int64_t>(2, 4'000'000 / numbers);
    std::vector<std::vector<double>> times(std::size(works));
    for (const auto& work : works) milliseconds(work, repeats);
    for (int round = 0; round < rounds; ++round) {
      for (size_t i = 0; i < times.size(); ++i) times[i].push_back(milliseconds(works[i], repeats));
    }
    const double base = median(times[0]);
    std::printf("%-10s %9ld %9.3f", name, long(numbers), base);
    for (size_t i = 1; i < times.size(); ++i) {
      const double took = median(times[i]);
      std::printf(" %8.3f (%5.2f)", took, base / took);
      // Read for the check: 4; read gradient, parameter and both averages, write the last three:
      // 28.
      if (i == 1) std::printf(" %6.1f", 32e-6 * static_cast<double>(numbers) / took);
    }
    std::printf("\n");
  }
}
