#include "halfstep/train/optim/optimizers.h"

#include "halfstep/optim/adagrad.h"
#include "halfstep/optim/adam.h"
#include "halfstep/optim/sgd.h"

#include <tuple>
#include <utility>

#include <torch/optim/rmsprop.h>

namespace halfstep::train {
namespace {

double at_least_zero(Config& config, const std::string& key, double fallback) {
  const auto value = config.get<double>(key, fallback);
  if (value < 0) config.fail(key, "must be at least 0");
  return value;
}

std::tuple<double, double> betas(Config& config, const std::tuple<double, double>& fallback) {
  const auto [first, second] = fallback;
  const auto values = config.get<std::vector<double>>("betas", {first, second});
  if (values.size() != 2 || values[0] < 0 || values[0] >= 1 || values[1] < 0 || values[1] >= 1)
    config.fail("betas", "must be two numbers in [0, 1)");
  return {values[0], values[1]};
}

// What all of the fused optimizers take.
template <class Options>
void read_fused(Config& config, Options& options) {
  options.master_weights(read_master_weights(config));
}

// Adam's and AdamW's options have the same names.
template <class Options>
Options adam_options(Config& config) {
  Options options;
  options.lr(at_least_zero(config, "lr", options.lr()));
  options.betas(betas(config, options.betas()));
  options.eps(at_least_zero(config, "eps", options.eps()));
  options.weight_decay(at_least_zero(config, "weight_decay", options.weight_decay()));
  options.amsgrad(config.get<bool>("amsgrad", options.amsgrad()));
  read_fused(config, options);
  return options;
}

}  // namespace

optim::MasterWeights read_master_weights(Config& optimizer) {
  const auto kind = optimizer.get<std::string>("master_weights", "none");
  if (kind == "none") return optim::MasterWeights::none;
  if (kind == "float32") return optim::MasterWeights::float32;
  if (kind == "remainder") return optim::MasterWeights::remainder;
  optimizer.fail("master_weights", "must be none, float32 or remainder");
}

OptimizerPtr make_adam(Config& config, std::vector<torch::Tensor> parameters) {
  return std::make_unique<optim::Adam>(std::move(parameters),
                                       adam_options<optim::AdamOptions>(config));
}

OptimizerPtr make_adamw(Config& config, std::vector<torch::Tensor> parameters) {
  return std::make_unique<optim::AdamW>(std::move(parameters),
                                        adam_options<optim::AdamWOptions>(config));
}

OptimizerPtr make_sgd(Config& config, std::vector<torch::Tensor> parameters) {
  // LibTorch has no default; Python's is 1e-3.
  optim::SGDOptions options(at_least_zero(config, "lr", 1e-3));
  options.momentum(at_least_zero(config, "momentum", options.momentum()));
  options.dampening(config.get<double>("dampening", options.dampening()));
  options.weight_decay(at_least_zero(config, "weight_decay", options.weight_decay()));
  options.nesterov(config.get<bool>("nesterov", options.nesterov()));
  if (options.nesterov() && (options.momentum() <= 0 || options.dampening() != 0))
    config.fail("nesterov", "must be false unless momentum is above 0 and dampening is 0");
  read_fused(config, options);
  return std::make_unique<optim::SGD>(std::move(parameters), options);
}

OptimizerPtr make_rmsprop(Config& config, std::vector<torch::Tensor> parameters) {
  torch::optim::RMSpropOptions options;
  options.lr(at_least_zero(config, "lr", options.lr()));
  options.alpha(at_least_zero(config, "alpha", options.alpha()));
  options.eps(at_least_zero(config, "eps", options.eps()));
  options.weight_decay(at_least_zero(config, "weight_decay", options.weight_decay()));
  options.momentum(at_least_zero(config, "momentum", options.momentum()));
  options.centered(config.get<bool>("centered", options.centered()));
  return std::make_unique<torch::optim::RMSprop>(std::move(parameters), options);
}

OptimizerPtr make_adagrad(Config& config, std::vector<torch::Tensor> parameters) {
  optim::AdagradOptions options;
  options.lr(at_least_zero(config, "lr", options.lr()));
  options.lr_decay(at_least_zero(config, "lr_decay", options.lr_decay()));
  options.weight_decay(at_least_zero(config, "weight_decay", options.weight_decay()));
  options.initial_accumulator_value(
      at_least_zero(config, "initial_accumulator_value", options.initial_accumulator_value()));
  options.eps(at_least_zero(config, "eps", options.eps()));
  read_fused(config, options);
  return std::make_unique<optim::Adagrad>(std::move(parameters), options);
}

}  // namespace halfstep::train
