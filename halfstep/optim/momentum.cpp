#include "halfstep/optim/momentum.h"

#include "halfstep/core/error.h"

#include <tuple>

#include <torch/optim/adam.h>
#include <torch/optim/adamw.h>
#include <torch/optim/rmsprop.h>
#include <torch/optim/sgd.h>

namespace halfstep::optim {

namespace {

/// LibTorch's options return references from const-less getters only.
template <class Options, class Found>
bool visit_as(torch::optim::OptimizerOptions& options, const Found& found) {
  auto* as = dynamic_cast<Options*>(&options);
  if (as == nullptr) return false;
  if constexpr (requires { as->momentum(); }) {
    found(as->momentum());
  } else {
    found(std::get<0>(as->betas()));
  }
  return true;
}

template <class Found>
bool visit(torch::optim::OptimizerOptions& options, const Found& found) {
  return visit_as<torch::optim::SGDOptions>(options, found) ||
         visit_as<torch::optim::RMSpropOptions>(options, found) ||
         visit_as<torch::optim::AdamOptions>(options, found) ||
         visit_as<torch::optim::AdamWOptions>(options, found);
}

}  // namespace

std::optional<double> get_momentum(const torch::optim::OptimizerOptions& options) {
  if (const auto* own = dynamic_cast<const MomentumOptions*>(&options)) return own->get_momentum();
  std::optional<double> momentum;
  visit(const_cast<torch::optim::OptimizerOptions&>(options),  // NOLINT(*-const-cast): only read
        [&](double value) { momentum = value; });
  return momentum;
}

void set_momentum(torch::optim::OptimizerOptions& options, double momentum) {
  if (auto* own = dynamic_cast<MomentumOptions*>(&options)) {
    own->set_momentum(momentum);
    return;
  }
  const bool has_one = visit(options, [&](double& value) { value = momentum; });
  HALFSTEP_CHECK_USAGE(
      has_one, "set_momentum",
      "the optimizer must have a momentum (SGD, RMSprop, Adam, AdamW), but this one "
      "has none; switch cycle_momentum off");
}

}  // namespace halfstep::optim
