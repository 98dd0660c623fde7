#include "halfstep/train/optim/optimizers.h"

#include "halfstep/core/error.h"
#include "halfstep/optim.h"
#include "halfstep/train/registry/registry.h"

#include <torch/optim/rmsprop.h>
#include <torch/types.h>

#include "tests/support/errors.h"
#include "tests/support/tolerance.h"

namespace halfstep::train {
namespace {

OptimizerPtr build(const std::string& yaml, std::vector<torch::Tensor> parameters) {
  Config config = Config::parse("o: " + yaml, "x.yaml");
  Config child = config.child("o");
  auto optimizer = optimizers().build(child, std::move(parameters));
  config.finish();
  return optimizer;
}

OptimizerPtr build(const std::string& yaml) {
  return build(yaml, {torch::zeros({2})});
}

template <class Options>
const Options& options(const OptimizerPtr& optimizer) {
  return dynamic_cast<const Options&>(optimizer->param_groups().at(0).options());
}

}  // namespace

TEST(Optimizers, DefaultsAreThoseOfPython) {
  using namespace halfstep::optim;
  using torch::optim::RMSpropOptions;
  EXPECT_EQ(options<AdamOptions>(build("{type: Adam}")), AdamOptions(1e-3));
  EXPECT_EQ(options<AdamWOptions>(build("{type: AdamW}")),
            AdamWOptions(1e-3).betas({0.9, 0.999}).eps(1e-8).weight_decay(1e-2));
  EXPECT_EQ(options<SGDOptions>(build("{type: SGD}")), SGDOptions(1e-3));
  EXPECT_EQ(options<RMSpropOptions>(build("{type: RMSprop}")),
            RMSpropOptions(1e-2).alpha(0.99).eps(1e-8));
  EXPECT_EQ(options<AdagradOptions>(build("{type: Adagrad}")), AdagradOptions(1e-2).eps(1e-10));
}

TEST(Optimizers, KeysReachTheOptions) {
  using namespace halfstep::optim;
  using torch::optim::RMSpropOptions;
  EXPECT_EQ(options<AdamOptions>(build("{type: Adam, lr: 0.1, betas: [0.8, 0.9], eps: 1e-6, "
                                       "weight_decay: 0.2, amsgrad: true}")),
            AdamOptions(0.1).betas({0.8, 0.9}).eps(1e-6).weight_decay(0.2).amsgrad(true));
  EXPECT_EQ(options<AdamWOptions>(build("{type: AdamW, lr: 0.1, betas: [0.8, 0.9], eps: 1e-6, "
                                        "weight_decay: 0.2, amsgrad: true}")),
            AdamWOptions(0.1).betas({0.8, 0.9}).eps(1e-6).weight_decay(0.2).amsgrad(true));
  EXPECT_EQ(options<SGDOptions>(
                build("{type: SGD, lr: 0.1, momentum: 0.9, weight_decay: 0.2, nesterov: true}")),
            SGDOptions(0.1).momentum(0.9).weight_decay(0.2).nesterov(true));
  EXPECT_EQ(options<SGDOptions>(build("{type: SGD, momentum: 0.9, dampening: 0.5}")),
            SGDOptions(1e-3).momentum(0.9).dampening(0.5));
  EXPECT_EQ(
      options<RMSpropOptions>(build("{type: RMSprop, lr: 0.1, alpha: 0.9, eps: 1e-6, "
                                    "weight_decay: 0.2, momentum: 0.3, centered: true}")),
      RMSpropOptions(0.1).alpha(0.9).eps(1e-6).weight_decay(0.2).momentum(0.3).centered(true));
  EXPECT_EQ(
      options<AdagradOptions>(build("{type: Adagrad, lr: 0.1, lr_decay: 0.2, weight_decay: "
                                    "0.3, initial_accumulator_value: 0.4, eps: 1e-6}")),
      AdagradOptions(0.1).lr_decay(0.2).weight_decay(0.3).initial_accumulator_value(0.4).eps(1e-6));
}

TEST(Optimizers, MasterWeightsReachAllFusedOnes) {
  using optim::MasterWeights;
  const std::pair<const char*, MasterWeights> kinds[] = {{"none", MasterWeights::none},
                                                         {"float32", MasterWeights::float32},
                                                         {"remainder", MasterWeights::remainder}};
  for (const char* type : {"Adam", "AdamW", "SGD", "Adagrad"}) {
    for (const auto& [name, kind] : kinds) {
      const auto optimizer =
          build(std::string("{type: ") + type + ", master_weights: " + name + "}");
      const auto& defaults = dynamic_cast<const optim::FusedOptions&>(optimizer->defaults());
      EXPECT_EQ(defaults.settings().master_weights, kind) << type << " " << name;
    }
  }
}

TEST(Optimizers, StepMovesTheGivenParameters) {
  for (const char* type : {"Adam", "AdamW", "SGD", "RMSprop", "Adagrad"}) {
    const auto parameter = torch::ones({2}).requires_grad_();
    const auto optimizer = build(std::string("{type: ") + type + ", lr: 0.1}", {parameter});
    parameter.mutable_grad() = torch::ones({2});
    optimizer->step();
    EXPECT_LT(parameter.max().item<float>(), 1.0f) << type;
  }
}

TEST(Optimizers, ValuesOutOfRangeAreErrors) {
  const struct {
    const char *yaml, *expected;
  } cases[] = {
      {"{type: Adam, lr: -1}", "o.lr must be at least 0, but got -1"},
      {"{type: Adam, betas: [0.9]}", "o.betas must be two numbers in [0, 1), but got [0.9]"},
      {"{type: Adam, betas: [0.9, 1]}", "o.betas must be two numbers in [0, 1), but got [0.9, 1]"},
      {"{type: AdamW, betas: [-0.1, 0.9]}", "o.betas must be two numbers in [0, 1)"},
      {"{type: Adam, eps: -1e-9}", "o.eps must be at least 0, but got -1e-9"},
      {"{type: AdamW, weight_decay: -1}", "o.weight_decay must be at least 0, but got -1"},
      {"{type: SGD, momentum: -1}", "o.momentum must be at least 0, but got -1"},
      {"{type: SGD, nesterov: true}",
       "o.nesterov must be false unless momentum is above 0 and dampening is 0, but got true"},
      {"{type: SGD, nesterov: true, momentum: 0.9, dampening: 0.1}", "o.nesterov must be false"},
      {"{type: RMSprop, alpha: -1}", "o.alpha must be at least 0, but got -1"},
      {"{type: Adagrad, lr_decay: -1}", "o.lr_decay must be at least 0, but got -1"},
      {"{type: Adagrad, initial_accumulator_value: -1}", "o.initial_accumulator_value must be"},
      {"{type: Adam, lrr: 1}",
       "unknown key 'lrr' in o; allowed: amsgrad, betas, eps, lr, master_weights, type, "
       "weight_decay; did you mean 'lr'?"},
      {"{type: SGD, master_weights: 16}", "o.master_weights must be"},
      {"{type: RMSprop, master_weights: none}", "unknown key 'master_weights' in o"},
      {"{type: LBFGS}", "unknown optimizer 'LBFGS'; known: Adagrad, Adam, AdamW, RMSprop, SGD"},
  };
  for (const auto& c : cases)
    EXPECT_ERROR(build(c.yaml), UsageError, "[config] x.yaml:1: ", c.expected);
}

}  // namespace halfstep::train
