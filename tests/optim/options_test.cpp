#include "halfstep/core/error.h"
#include "halfstep/optim.h"

#include <torch/optim/adam.h>
#include <torch/optim/schedulers/step_lr.h>
#include <torch/types.h>

#include "tests/support/errors.h"

namespace halfstep::testing {

using namespace halfstep::optim;
using torch::optim::OptimizerParamGroup;

namespace {

at::Tensor parameter() {
  return torch::ones({2}, torch::requires_grad());
}

template <class Options>
OptimizerParamGroup group(Options options) {
  return {{parameter()}, std::make_unique<Options>(std::move(options))};
}

template <class Options>
const Options& options_of(const torch::optim::Optimizer& optimizer, size_t index) {
  return dynamic_cast<const Options&>(optimizer.param_groups().at(index).options());
}

}  // namespace

TEST(FusedOptions, DefaultsAreThoseOfPython) {
  const AdamOptions adam;
  EXPECT_EQ(adam.lr(), 1e-3);
  EXPECT_EQ(adam.betas(), std::make_tuple(0.9, 0.999));
  EXPECT_EQ(adam.eps(), 1e-8);
  EXPECT_EQ(adam.weight_decay(), 0);
  EXPECT_FALSE(adam.amsgrad() || adam.maximize());
  EXPECT_EQ(AdamWOptions().weight_decay(), 1e-2);
  EXPECT_EQ(SGDOptions().lr(), 1e-3);
  EXPECT_EQ(SGDOptions().momentum(), 0);
  EXPECT_EQ(AdagradOptions().lr(), 1e-2);
  EXPECT_EQ(AdagradOptions().eps(), 1e-10);
}

// LibTorch 2.15 drops the options of a group whose class it does not know; every version must keep
// them.
TEST(FusedOptions, AGroupInheritsWhatItDoesNotSet) {
  std::vector<OptimizerParamGroup> groups;
  groups.push_back(group(AdamOptions().weight_decay(0)));  // set, to the class's own default
  groups.push_back(group(AdamOptions(0.5).amsgrad(true)));
  groups.push_back(OptimizerParamGroup({parameter()}));
  Adam adam(groups, AdamOptions(0.01).weight_decay(0.05).betas({0.5, 0.6}).maximize(true));
  adam.add_param_group(group(AdamOptions().eps(1e-3).maximize(false)));

  const auto base = AdamOptions(0.01).weight_decay(0.05).betas({0.5, 0.6}).maximize(true);
  EXPECT_EQ(options_of<AdamOptions>(adam, 0), AdamOptions(base).weight_decay(0));
  EXPECT_EQ(options_of<AdamOptions>(adam, 1), AdamOptions(base).lr(0.5).amsgrad(true));
  EXPECT_EQ(options_of<AdamOptions>(adam, 2), base);
  EXPECT_EQ(options_of<AdamOptions>(adam, 3), AdamOptions(base).eps(1e-3).maximize(false));
  EXPECT_FALSE(options_of<AdamOptions>(adam, 3) == base);
}

TEST(FusedOptions, AValueChangedThroughAReferenceCountsAsSet) {
  SGDOptions changed;
  changed.lr() = 0.5;
  SGD sgd({group(changed)}, SGDOptions(0.1).momentum(0.9));
  EXPECT_EQ(options_of<SGDOptions>(sgd, 0), SGDOptions(0.5).momentum(0.9));
}

TEST(FusedOptions, GroupsOfTheOtherClasses) {
  SGD sgd({group(SGDOptions().momentum(0.5))}, SGDOptions(0.1).weight_decay(0.2).maximize(true));
  EXPECT_EQ(options_of<SGDOptions>(sgd, 0),
            SGDOptions(0.1).weight_decay(0.2).maximize(true).momentum(0.5));
  AdamW adamw({group(AdamWOptions().eps(1e-3))}, AdamWOptions(0.1).amsgrad(true));
  EXPECT_EQ(options_of<AdamWOptions>(adamw, 0), AdamWOptions(0.1).amsgrad(true).eps(1e-3));
  Adagrad adagrad({group(AdagradOptions().lr_decay(0.5))}, AdagradOptions(0.1).weight_decay(0.2));
  EXPECT_EQ(options_of<AdagradOptions>(adagrad, 0),
            AdagradOptions(0.1).weight_decay(0.2).lr_decay(0.5));
}

TEST(FusedOptions, SchedulersOfLibTorchReachTheRate) {
  std::vector<OptimizerParamGroup> groups{group(SGDOptions()), group(SGDOptions(1.0))};
  SGD sgd(groups, SGDOptions(0.5));
  torch::optim::StepLR scheduler(sgd, 1, 0.5);
  for (int i = 0; i < 2; ++i) scheduler.step();  // LibTorch's first one changes nothing
  EXPECT_EQ(options_of<SGDOptions>(sgd, 0).lr(), 0.25);
  EXPECT_EQ(options_of<SGDOptions>(sgd, 1).lr(), 0.5);
  const auto& moved = sgd.param_groups()[0].params()[0];
  moved.mutable_grad() = torch::ones({2});
  sgd.step();
  EXPECT_EQ(moved[0].item<float>(), 0.75F) << "the step must use the scheduled rate";
}

TEST(FusedOptions, SchedulesOfTheMomentumReachThem) {
  AdamW adamw({parameter()}, AdamWOptions().betas({0.5, 0.6}));
  SGD sgd({parameter()}, SGDOptions().momentum(0.7));
  EXPECT_EQ(get_momentum(adamw.param_groups()[0].options()), 0.5);
  EXPECT_EQ(get_momentum(sgd.param_groups()[0].options()), 0.7);
  set_momentum(adamw.param_groups()[0].options(), 0.8);
  set_momentum(sgd.param_groups()[0].options(), 0.9);
  EXPECT_EQ(options_of<AdamWOptions>(adamw, 0).betas(), std::make_tuple(0.8, 0.6));
  EXPECT_EQ(options_of<SGDOptions>(sgd, 0).momentum(), 0.9);
}

TEST(FusedOptions, OtherClassesOfOptionsAreErrors) {
  std::vector<OptimizerParamGroup> groups{
      OptimizerParamGroup({parameter()}, std::make_unique<torch::optim::AdamOptions>(0.5))};
  EXPECT_ERROR(Adam{groups}, UsageError, "[Adam]", "halfstep::optim::AdamOptions",
               "but group 0 has torch::optim::AdamOptions", "make them with that class");
  Adam adam({parameter()});
  EXPECT_ERROR(adam.add_param_group(group(AdamWOptions())), UsageError, "but group 1 has");
  EXPECT_EQ(adam.param_groups().size(), 1U);
}

TEST(FusedOptions, ValuesOutOfRangeAreErrors) {
  const std::vector<at::Tensor> one{parameter()};
  EXPECT_ERROR(Adam(one, AdamOptions(-1)), UsageError, "[Adam] lr must be at least 0, but got -1");
  EXPECT_ERROR(Adam(one, AdamOptions(NAN)), UsageError, "lr must be at least 0, but got nan");
  EXPECT_ERROR(Adam(one, AdamOptions().eps(-1)), UsageError, "eps must be");
  EXPECT_ERROR(Adam(one, AdamOptions().betas({0.9, 1.0})), UsageError,
               "betas must be two numbers in [0, 1), but got 0.9 and 1");
  EXPECT_ERROR(AdamW(one, AdamWOptions().weight_decay(-1)), UsageError, "[AdamW] weight_decay");
  EXPECT_ERROR(SGD(one, SGDOptions().momentum(-1)), UsageError, "[SGD] momentum must be");
  EXPECT_ERROR(SGD(one, SGDOptions().nesterov(true)), UsageError, "nesterov must have a momentum");
  EXPECT_ERROR(SGD(one, SGDOptions().nesterov(true).momentum(0.9).dampening(0.1)), UsageError,
               "dampening 0.1");
  EXPECT_ERROR(Adagrad(one, AdagradOptions().lr_decay(-1)), UsageError, "[Adagrad] lr_decay");
  EXPECT_ERROR(Adagrad(one, AdagradOptions().initial_accumulator_value(-1)), UsageError,
               "initial_accumulator_value must be");
  EXPECT_ERROR(Adam({group(AdamOptions().eps(-1))}, AdamOptions()), UsageError, "eps must be");
}

TEST(FusedOptions, AParameterListedTwiceIsAnError) {
  const auto twice = parameter();
  EXPECT_ERROR(Adam({twice, twice}), UsageError, "[Adam] each parameter must be listed once",
               "in group 0 is listed again");
  Adam adam({twice});
  EXPECT_ERROR(adam.add_param_group(OptimizerParamGroup({twice})), UsageError, "in group 1");
  EXPECT_ERROR(Adam({at::Tensor()}), UsageError, "undefined");
}

}  // namespace halfstep::testing
