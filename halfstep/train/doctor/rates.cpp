#include "halfstep/train/doctor/rates.h"

#include "halfstep/autocast/half_rehearsal.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <limits>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/mm.h>
#include <torch/cuda.h>

namespace halfstep::train {

namespace {

constexpr double kLongest = 1;  // seconds

double best_seconds(c10::Device device, const std::function<void()>& work) {
  double best = std::numeric_limits<double>::infinity();
  double spent = 0;
  const auto finish = [&] {
    if (device.is_cuda()) torch::cuda::synchronize(device.index());
  };
  // The first one warms up, unless it says already that this takes seconds.
  for (int i = 0; i < 6 && spent < kLongest; ++i) {
    finish();
    const auto start = std::chrono::steady_clock::now();
    work();
    finish();
    const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - start;
    spent += passed.count();
    if (i > 0 || spent >= kLongest) best = std::min(best, passed.count());
  }
  return best;
}

}  // namespace

Rates measure_rates(c10::Device device, c10::ScalarType dtype) {
  const at::NoGradGuard no_grad;
  const HalfRehearsal rehearsal(device.is_cpu() && dtype == c10::kHalf);
  const auto options = at::TensorOptions(device).dtype(dtype);
  const int64_t size = device.is_cpu() ? 1024 : 8192;
  const int64_t images = device.is_cpu() ? 8 : 64;
  const auto matrix = at::full({size, size}, 0.01, options);
  const auto side = static_cast<double>(size);
  Rates rates;
  rates.product = 2 * side * side * side / best_seconds(device, [&] { at::mm(matrix, matrix); });
  // 16-bit kernels want the channels last.
  const auto input =
      at::full({images, 64, 56, 56}, 0.01, options).contiguous(at::MemoryFormat::ChannelsLast);
  const auto weight =
      at::full({64, 64, 3, 3}, 0.01, options).contiguous(at::MemoryFormat::ChannelsLast);
  const double operations = 2.0 * static_cast<double>(images) * 56 * 56 * 64 * 64 * 9;
  rates.convolution = operations / best_seconds(device, [&] {
                        at::conv2d(input, weight, {}, /*stride=*/1, /*padding=*/1);
                      });
  return rates;
}

double measure_memory_rate(c10::Device device) {
  const at::NoGradGuard no_grad;
  constexpr int64_t bytes = int64_t{256} << 20;
  const auto from = at::full({bytes / 4}, 1.0, at::TensorOptions(device).dtype(c10::kFloat));
  auto to = at::empty_like(from);
  return 2 * static_cast<double>(bytes) / best_seconds(device, [&] { to.copy_(from); });
}

}  // namespace halfstep::train
