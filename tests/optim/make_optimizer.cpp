#include "tests/optim/make_optimizer.h"

#include "halfstep/optim.h"

#include <stdexcept>

#include <torch/optim.h>

namespace halfstep::testing {

namespace {

// Both namespaces have the same names of classes and fields.
template <class Options>
Options adam_like() {
  return Options(0.1).betas({0.8, 0.9}).weight_decay(0.05).amsgrad(true);
}
template <class Options>
Options sgd() {
  return Options(0.1).momentum(0.9).weight_decay(0.05).nesterov(true);
}
template <class Options>
Options adagrad() {
  return Options(0.1).lr_decay(0.01).weight_decay(0.05).initial_accumulator_value(0.1);
}

}  // namespace

OptimizerPtr make_fused(const std::string& name, std::vector<at::Tensor> parameters, bool maximize,
                        optim::Kernel kernel, optim::MasterWeights masters) {
  using namespace halfstep::optim;
  if (name == "Adam")
    return std::make_unique<Adam>(
        std::move(parameters),
        adam_like<AdamOptions>().maximize(maximize).kernel(kernel).master_weights(masters));
  if (name == "AdamW")
    return std::make_unique<AdamW>(
        std::move(parameters),
        adam_like<AdamWOptions>().maximize(maximize).kernel(kernel).master_weights(masters));
  if (name == "SGD")
    return std::make_unique<SGD>(
        std::move(parameters),
        sgd<SGDOptions>().maximize(maximize).kernel(kernel).master_weights(masters));
  if (name == "Adagrad")
    return std::make_unique<Adagrad>(
        std::move(parameters),
        adagrad<AdagradOptions>().maximize(maximize).kernel(kernel).master_weights(masters));
  throw std::invalid_argument(name);
}

OptimizerPtr make_stock(const std::string& name, std::vector<at::Tensor> parameters) {
  using namespace torch::optim;
  if (name == "Adam")
    return std::make_unique<Adam>(std::move(parameters), adam_like<AdamOptions>());
  if (name == "AdamW")
    return std::make_unique<AdamW>(std::move(parameters), adam_like<AdamWOptions>());
  if (name == "SGD") return std::make_unique<SGD>(std::move(parameters), sgd<SGDOptions>());
  if (name == "Adagrad")
    return std::make_unique<Adagrad>(std::move(parameters), adagrad<AdagradOptions>());
  throw std::invalid_argument(name);
}

}  // namespace halfstep::testing
