#include "halfstep/train/losses/losses.h"

#include "halfstep/core/error.h"

#include <ATen/core/Reduction.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/mse_loss.h>
#include <ATen/ops/nll_loss_nd.h>

namespace halfstep::train {

Loss make_cross_entropy(Config& config) {
  const auto smoothing = config.get<double>("label_smoothing", 0.0);
  if (smoothing < 0 || smoothing > 1) config.fail("label_smoothing", "must be in [0, 1]");
  const auto ignore_index = config.get<int64_t>("ignore_index", -100);
  return [=](const torch::Tensor& output, const torch::Tensor& target) {
    // A sequence model's scores are (n·t, classes) for targets (n, t).
    const bool sequences = output.dim() == 2 && target.dim() == 2 && !target.is_floating_point();
    return at::cross_entropy_loss(output, sequences ? target.flatten() : target, /*weight=*/{},
                                  at::Reduction::Mean, ignore_index, smoothing);
  };
}

Loss make_nll(Config& config) {
  const auto ignore_index = config.get<int64_t>("ignore_index", -100);
  return [=](const torch::Tensor& output, const torch::Tensor& target) {
    return at::nll_loss_nd(output, target, /*weight=*/{}, at::Reduction::Mean, ignore_index);
  };
}

Loss make_mse(Config&) {
  return [](const torch::Tensor& output, const torch::Tensor& target) {
    HALFSTEP_CHECK_USAGE(output.sizes() == target.sizes(), "MSELoss",
                         "output and target must have one shape, but got ", output.sizes(), " and ",
                         target.sizes(), "; reshape the target");
    return at::mse_loss(output, target.to(output.scalar_type()));
  };
}

}  // namespace halfstep::train
