#pragma once
#include <cmath>
#include <string>

#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <torch/nn/module.h>
#include <torch/types.h>

namespace halfstep::testing {

/// Numbers in [-1, 1), exact in float32: those of uniform() in scripts/golden/networks.py.
inline at::Tensor hashed(at::IntArrayRef sizes, int64_t salt) {
  int64_t count = 1;
  for (const auto size : sizes) count *= size;
  auto x = at::arange(count, at::kLong) * int64_t{2654435761} + salt * 97003;
  x = x.bitwise_xor(x.bitwise_right_shift(15)).remainder(int64_t{2147483648}) * 1103515245;
  x = x.bitwise_xor(x.bitwise_right_shift(13)).remainder(int64_t{2147483648});
  return (x.bitwise_right_shift(8).to(at::kFloat) / 4194304 - 1).reshape(sizes);
}

/// set_weights() of scripts/golden/networks.py.
inline void set_hashed_weights(torch::nn::Module& module) {
  const torch::NoGradGuard no_grad;
  int64_t salt = 0;
  for (auto& item : module.named_parameters()) {
    auto& p = item.value();
    const auto u = hashed(p.sizes(), ++salt);
    if (p.dim() > 1) {
      p.copy_(u / std::sqrt(static_cast<double>(p.numel() / p.size(0))));
      continue;
    }
    p.copy_(u * 0.1);
    // The weights of norms are the only vectors of this name.
    if (item.key().ends_with(".weight")) p.add_(1);
  }
}

}  // namespace halfstep::testing
