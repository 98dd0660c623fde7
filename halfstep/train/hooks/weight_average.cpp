#include "halfstep/train/hooks/weight_average.h"

#include <algorithm>
#include <iostream>

#include <ATen/core/grad_mode.h>

namespace halfstep::train {

WeightAverage::WeightAverage(Config& config) {
  const auto type = config.get<std::string>("ema_type", "ExponentialMovingAverage");
  if (type == "StochasticWeightAverage") {
    kind_ = Kind::stochastic;
  } else if (type == "MomentumAnnealingEMA") {
    kind_ = Kind::annealing;
  } else if (type != "ExponentialMovingAverage") {
    config.fail("ema_type",
                "must be ExponentialMovingAverage, MomentumAnnealingEMA or "
                "StochasticWeightAverage");
  }
  if (kind_ != Kind::stochastic) {
    momentum_ = config.get<double>("momentum", momentum_);
    if (!(momentum_ > 0 && momentum_ < 1)) config.fail("momentum", "must be above 0 and below 1");
    if (momentum_ > 0.5)
      std::cerr << "warning: " << config.where("momentum") << ": momentum " << momentum_
                << " is the share of the new weights in their average, usually a small number\n";
  }
  if (kind_ == Kind::annealing) {
    gamma_ = config.get<int64_t>("gamma", gamma_);
    if (gamma_ < 1) config.fail("gamma", "must be at least 1");
  }
  interval_ = config.get<int64_t>("interval", interval_);
  if (interval_ < 1) config.fail("interval", "must be at least 1");
  update_buffers_ = config.get<bool>("update_buffers", update_buffers_);
}

void WeightAverage::watch(torch::nn::Module& model) {
  if (!items_.empty()) return;
  const at::NoGradGuard no_grad;
  const auto add = [&](const std::string& name, const at::Tensor& tensor) {
    const bool narrow = tensor.scalar_type() == at::kHalf || tensor.scalar_type() == at::kBFloat16;
    const auto dtype = narrow ? at::kFloat : tensor.scalar_type();
    items_.push_back({name, tensor, tensor.detach().to(dtype, /*non_blocking=*/false, true), {}});
  };
  for (const auto& item : model.named_parameters()) add(item.key(), item.value());
  if (!update_buffers_) return;
  for (const auto& item : model.named_buffers())
    if (item.value().is_floating_point()) add(item.key(), item.value());
}

void WeightAverage::copy() {
  const at::NoGradGuard no_grad;
  for (auto& item : items_) item.average.copy_(item.weight);
}

void WeightAverage::update() {
  const at::NoGradGuard no_grad;
  if (updates_ == 0) {
    copy();
  } else if (updates_ % interval_ == 0) {
    double share = momentum_;
    if (kind_ == Kind::annealing)
      share = std::max(share, static_cast<double>(gamma_) / static_cast<double>(gamma_ + updates_));
    const int64_t seen = updates_ / interval_ + 1;
    if (kind_ == Kind::stochastic) share = 1.0 / static_cast<double>(seen);
    for (auto& [name, weight, average, own] : items_) {
      const auto source = weight.detach().to(average.scalar_type());
      if (kind_ == Kind::stochastic)
        average.add_(source - average, share);
      else
        average.lerp_(source, share);
    }
  }
  ++updates_;
}

void WeightAverage::swap_in() {
  const at::NoGradGuard no_grad;
  for (auto& item : items_) {
    item.own = item.weight.detach().clone();
    item.weight.copy_(item.average);
  }
}

void WeightAverage::swap_out() {
  const at::NoGradGuard no_grad;
  for (auto& item : items_) {
    if (!item.own.defined()) continue;
    item.weight.copy_(item.own);
    item.own.reset();
  }
}

}  // namespace halfstep::train
