#include "halfstep/train/optim/paramwise.h"

#include "halfstep/core/error.h"
#include "halfstep/optim.h"
#include "halfstep/train/optim/build_optimizer.h"
#include "halfstep/train/registry/registry.h"

#include <map>

#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/normalization.h>
#include <torch/optim/rmsprop.h>
#include <torch/types.h>

#include "tests/support/errors.h"

namespace halfstep::train {
namespace {

using halfstep::optim::SGDOptions;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;
using torch::nn::Conv2d, torch::nn::Conv2dOptions;

/// MMEngine's example models for these tests.
struct SubModel : torch::nn::Module {
  SubModel() {
    register_module("conv1", Conv2d(Conv2dOptions(2, 2, 1).groups(2)));
    register_module("gn", torch::nn::GroupNorm(2, 2));
    register_parameter("param1", torch::ones({1}));
  }
};

struct ExampleModel : torch::nn::Module {
  ExampleModel() {
    register_parameter("param1", torch::ones({1}));
    conv1 = register_module("conv1", Conv2d(Conv2dOptions(3, 4, 1).bias(false)));
    register_module("conv2", Conv2d(4, 2, 1));
    register_module("bn", torch::nn::BatchNorm2d(2));
    register_module("sub", std::make_shared<SubModel>());
  }
  Conv2d conv1{nullptr};
};

/// Its conv3.0 is conv1.0.
struct ExampleDuplicateModel : torch::nn::Module {
  ExampleDuplicateModel() {
    register_parameter("param1", torch::ones({1}));
    register_module("conv1", torch::nn::Sequential(conv));
    register_module("conv2", torch::nn::Sequential(Conv2d(4, 2, 1)));
    register_module("bn", torch::nn::BatchNorm2d(2));
    register_module("sub", std::make_shared<SubModel>());
    register_module("conv3", torch::nn::Sequential(conv));
  }
  Conv2d conv{Conv2dOptions(3, 4, 1).bias(false)};
};

constexpr const char* kSgd = "optimizer: {type: SGD, lr: 0.01, weight_decay: 0.9, momentum: 1e-4}";
constexpr const char* kMultipliers =
    "bias_lr_mult: 2, bias_decay_mult: 0.5, norm_decay_mult: 0, dwconv_decay_mult: 0.1, "
    "flat_decay_mult: 0.3";

BuiltOptimizer build(const std::string& yaml, const torch::nn::Module& model) {
  auto config = Config::parse(yaml, "x.yaml");
  auto built = build_optimizer(config, model);
  config.finish();
  return built;
}

std::string with_paramwise(const std::string& keys) {
  return std::string(kSgd) + "\nparamwise_cfg: {" + keys + "}";
}

/// The options of each parameter by its name.
template <class Options = SGDOptions>
std::map<std::string, Options> options_by_name(const BuiltOptimizer& built) {
  std::map<std::string, Options> result;
  size_t index = 0;
  for (const auto& group : built.optimizer->param_groups())
    for (size_t i = 0; i < group.params().size(); ++i)
      result.emplace(built.parameter_names.at(index++),
                     dynamic_cast<const Options&>(group.options()));
  EXPECT_EQ(index, built.parameter_names.size());
  return result;
}

/// Names and tensors belong together, each parameter is there once.
void expect_parameters_of(const torch::nn::Module& model, const BuiltOptimizer& built) {
  const auto parameters = model.named_parameters();
  size_t index = 0;
  for (const auto& group : built.optimizer->param_groups())
    for (const auto& tensor : group.params())
      EXPECT_TRUE(tensor.is_same(parameters[built.parameter_names.at(index++)]));
}

SGDOptions sgd(double lr, double weight_decay) {
  return SGDOptions(lr).weight_decay(weight_decay).momentum(1e-4);
}

/// What MMEngine's test asserts of the model's eleven parameters with these multipliers.
void expect_multiplied(const BuiltOptimizer& built, const std::string& conv1 = "conv1.weight",
                       const std::string& conv2 = "conv2") {
  const double lr = 0.01;
  const double decay = 0.9;
  const std::map<std::string, SGDOptions> expected{
      {"param1", sgd(lr, decay * 0.3)},
      {conv1, sgd(lr, decay)},
      {conv2 + ".weight", sgd(lr, decay)},
      {conv2 + ".bias", sgd(lr * 2, decay * 0.5)},
      {"bn.weight", sgd(lr, 0)},
      {"bn.bias", sgd(lr, 0)},
      {"sub.param1", sgd(lr, decay * 0.3)},
      {"sub.conv1.weight", sgd(lr, decay * 0.1)},
      {"sub.conv1.bias", sgd(lr * 2, decay * 0.5)},
      {"sub.gn.weight", sgd(lr, 0)},
      {"sub.gn.bias", sgd(lr, 0)},
  };
  const auto found = options_by_name(built);
  for (const auto& [name, options] : expected) {
    ASSERT_TRUE(found.contains(name)) << name;
    EXPECT_TRUE(found.at(name) == options)
        << name << ": lr " << found.at(name).lr() << ", decay " << found.at(name).weight_decay();
  }
  EXPECT_EQ(found.size(), expected.size());
}

}  // namespace

TEST(Paramwise, BuildOptimizer) {
  const ExampleModel model;
  for (const char* type : {"type: OptimWrapper\n", ""}) {
    auto config = Config::parse(std::string(type) + kSgd, "x.yaml");
    config.ignore("type");
    const auto built = build_optimizer(config, model);
    ASSERT_THAT(built.optimizer->param_groups(), SizeIs(1));
    EXPECT_EQ(dynamic_cast<const SGDOptions&>(built.optimizer->defaults()), sgd(0.01, 0.9));
    EXPECT_EQ(built.parameter_names, model.named_parameters().keys());
    expect_parameters_of(model, built);
  }
  EXPECT_ERROR(build(with_paramwise("invalid_mult: 1"), model), UsageError,
               "x.yaml:2: unknown key 'invalid_mult' in paramwise_cfg", "bias_decay_mult");
  EXPECT_ERROR(build("paramwise_cfg: {}", model), UsageError, "key 'optimizer' is missing");
}

TEST(Paramwise, BuildDefaultOptimizerConstructor) {
  const ExampleModel model;
  const auto built = build(with_paramwise(kMultipliers), model);
  EXPECT_EQ(dynamic_cast<const SGDOptions&>(built.optimizer->defaults()), sgd(0.01, 0.9));
  expect_multiplied(built);
  expect_parameters_of(model, built);
  // The untouched, one dimension, biases, norms, the depth-wise weight.
  EXPECT_THAT(built.optimizer->param_groups(), SizeIs(5));
  EXPECT_EQ(built.parameter_names.front(), "conv1.weight") << "what has no options comes first";
  EXPECT_THAT(built.warnings, IsEmpty());
}

TEST(Paramwise, EachDecayRuleLeavesTheRestToTheNext) {
  const ExampleModel model;
  const auto decay = [&](const std::string& keys) {
    std::map<std::string, double> result;
    for (const auto& [name, options] : options_by_name(build(with_paramwise(keys), model)))
      result[name] = options.weight_decay();
    return result;
  };
  // Without a rule for norms their biases are biases.
  auto found = decay("bias_decay_mult: 0.5, flat_decay_mult: 0.3");
  EXPECT_EQ(found["bn.bias"], 0.9 * 0.5);
  EXPECT_EQ(found["bn.weight"], 0.9 * 0.3);
  EXPECT_EQ(found["sub.conv1.weight"], 0.9);
  // Without a rule for biases a depth-wise one is that.
  found = decay("dwconv_decay_mult: 0.1, flat_decay_mult: 0.3");
  EXPECT_EQ(found["sub.conv1.bias"], 0.9 * 0.1);
  EXPECT_EQ(found["conv2.bias"], 0.9 * 0.3);
  EXPECT_EQ(found["sub.gn.bias"], 0.9 * 0.3);
}

TEST(Paramwise, DefaultOptimizerConstructorErrors) {
  const ExampleModel model;
  EXPECT_ERROR(build("optimizer: []", model), UsageError, "x.yaml:1: optimizer must be a mapping");
  EXPECT_ERROR(build(std::string(kSgd) + "\nparamwise_cfg: [error]", model), UsageError,
               "x.yaml:2: paramwise_cfg must be a mapping");
  for (const char* key :
       {"bias_decay_mult", "norm_decay_mult", "dwconv_decay_mult", "flat_decay_mult"})
    for (const char* decay : {"", ", weight_decay: null"})
      EXPECT_ERROR(build(c10::str("optimizer: {type: SGD, lr: 1e-4", decay, "}\nparamwise_cfg:\n  ",
                                  key, ": 1"),
                         model),
                   UsageError, "x.yaml:3: paramwise_cfg.", key, "weight_decay", "x.yaml:1");
}

TEST(Paramwise, EmptyMappingIsAsNone) {
  ExampleModel model;
  auto built = build(with_paramwise(""), model);
  ASSERT_THAT(built.optimizer->param_groups(), SizeIs(1));
  EXPECT_EQ(built.parameter_names, model.named_parameters().keys());
  for (auto& parameter : model.parameters()) parameter.requires_grad_(false);
  EXPECT_ERROR(build(with_paramwise(""), model), UsageError, "parameters to train");
}

TEST(Paramwise, SkipsWhatTakesNoGradient) {
  ExampleModel model;
  model.conv1->weight.requires_grad_(false);
  const auto built = build(with_paramwise("bias_lr_mult: 2"), model);
  const auto found = options_by_name(built);
  EXPECT_FALSE(found.contains("conv1.weight"));
  EXPECT_THAT(found, SizeIs(10));
  EXPECT_THAT(built.warnings,
              ElementsAre("'conv1.weight' is not trained: its requires_grad is false"));
  expect_parameters_of(model, built);
}

TEST(Paramwise, BypassDuplicate) {
  ExampleDuplicateModel model;
  EXPECT_ERROR(build(with_paramwise(kMultipliers), model), UsageError,
               "x.yaml:2: paramwise_cfg.bypass_duplicate must be true",
               "'conv3.0.weight' and 'conv1.0.weight' are one parameter, but got false");
  const auto yaml = with_paramwise(std::string(kMultipliers) + ", bypass_duplicate: true");
  auto built = build(yaml, model);
  expect_multiplied(built, "conv1.0.weight", "conv2.0");
  EXPECT_THAT(built.warnings, ElementsAre(HasSubstr("'conv3.0.weight' is 'conv1.0.weight'")));

  model.conv->weight.requires_grad_(false);
  built = build(yaml, model);
  EXPECT_THAT(built.parameter_names, SizeIs(10));
  EXPECT_THAT(built.warnings, ElementsAre(HasSubstr("'conv1.0.weight' is not trained"),
                                          HasSubstr("'conv3.0.weight' is not trained")));
}

TEST(Paramwise, WithoutRulesADuplicateIsTakenOnce) {
  const ExampleDuplicateModel model;
  const auto built = build(kSgd, model);
  EXPECT_THAT(built.parameter_names, SizeIs(11));
  expect_parameters_of(model, built);
}

TEST(Paramwise, CustomKey) {
  const ExampleModel model;
  EXPECT_ERROR(build(with_paramwise("custom_keys: [0.1, 0.0001]"), model), UsageError,
               "x.yaml:2: paramwise_cfg.custom_keys must be a mapping");
  EXPECT_ERROR(build("optimizer: {type: SGD, lr: 0.01}\nparamwise_cfg:\n  custom_keys:\n    "
                     ".backbone: {decay_mult: 0.5}",
                     model),
               UsageError, "x.yaml:4", "decay_mult", "weight_decay");

  const auto built = build(with_paramwise("custom_keys: {param1: {lr_mult: 10}, "
                                          "sub: {lr_mult: 0.1, decay_mult: 0}, "
                                          "sub.gn: {lr_mult: 0.01}, "
                                          "non_exist_key: {lr_mult: 0.0}}, norm_decay_mult: 0.5"),
                           model);
  const auto found = options_by_name(built);
  const double lr = 0.01;
  const double decay = 0.9;
  for (const auto& [names, expected] : std::vector<std::pair<std::vector<std::string>, SGDOptions>>{
           {{"param1", "sub.param1"}, sgd(lr * 10, decay)},
           {{"sub.gn.weight", "sub.gn.bias"}, sgd(lr * 0.01, decay)},
           {{"sub.conv1.weight", "sub.conv1.bias"}, sgd(lr * 0.1, 0)},
           {{"bn.weight", "bn.bias"}, sgd(lr, decay * 0.5)},
           {{"conv1.weight", "conv2.weight", "conv2.bias"}, sgd(lr, decay)}})
    for (const auto& name : names) EXPECT_TRUE(found.at(name) == expected) << name;
  EXPECT_THAT(found, SizeIs(11));
  EXPECT_THAT(built.warnings, ElementsAre("the custom key 'non_exist_key' of x.yaml:2 decides no "
                                          "parameter"));
  expect_parameters_of(model, built);

  const auto without_decay = build(
      "optimizer: {type: SGD, lr: 0.01, momentum: 1e-4}\n"
      "paramwise_cfg: {custom_keys: {param1: {lr_mult: 10}}}",
      model);
  for (const auto& [name, options] : options_by_name(without_decay))
    EXPECT_TRUE(options == sgd(name.find("param1") == name.npos ? lr : lr * 10, 0)) << name;
}

TEST(Paramwise, KeysMatchAsMMEngineNamesParameters) {
  const ExampleModel model;
  // The model's own parameters begin with a dot; of equally long keys the first one wins.
  const auto found = options_by_name(
      build(with_paramwise("custom_keys: {.param1: {lr_mult: 3}, conv1.w: {lr_mult: 5}, "
                           "sub.con: {lr_mult: 7}, onv1.we: {lr_mult: 9}}"),
            model));
  EXPECT_EQ(found.at("param1").lr(), 0.01 * 3);
  EXPECT_EQ(found.at("sub.param1").lr(), 0.01 * 3);
  EXPECT_EQ(found.at("conv1.weight").lr(), 0.01 * 5);
  EXPECT_EQ(found.at("sub.conv1.weight").lr(), 0.01 * 5);
  EXPECT_EQ(found.at("sub.conv1.bias").lr(), 0.01 * 7);
}

TEST(Paramwise, CustomKeysTakeAnyOptionOfTheOptimizer) {
  const ExampleModel model;
  const auto adam = options_by_name<halfstep::optim::AdamWOptions>(
      build("optimizer: {type: AdamW, lr: 1e-5}\nparamwise_cfg: {custom_keys: "
            "{sub: {betas: [0.5, 0.9], eps: 1e-6, lr_mult: 0.5}, bn: {lr: 0.25, lr_mult: 3}}}",
            model));
  EXPECT_EQ(adam.at("sub.gn.bias").betas(), std::make_tuple(0.5, 0.9));
  EXPECT_EQ(adam.at("sub.gn.bias").eps(), 1e-6);
  EXPECT_EQ(adam.at("sub.gn.bias").lr(), 1e-5 * 0.5);
  EXPECT_EQ(adam.at("sub.gn.bias").weight_decay(), 1e-2);
  EXPECT_EQ(adam.at("bn.bias").lr(), 0.25);
  EXPECT_EQ(adam.at("conv2.bias"), halfstep::optim::AdamWOptions(1e-5));

  const auto rmsprop = options_by_name<torch::optim::RMSpropOptions>(build(
      "optimizer: {type: RMSprop}\nparamwise_cfg: {custom_keys: {sub: {alpha: 0.5}}}", model));
  EXPECT_EQ(rmsprop.at("sub.param1").alpha(), 0.5);
  EXPECT_EQ(rmsprop.at("conv2.bias").alpha(), 0.99);

  const auto fails = [&](const std::string& key) {
    build(std::string(kSgd) + "\nparamwise_cfg:\n  custom_keys:\n    sub:\n      " + key, model);
  };
  EXPECT_ERROR(fails("momentun: 0.5"), UsageError, "x.yaml:5: unknown key 'momentun'",
               "did you mean 'momentum'");
  EXPECT_ERROR(fails("momentum: -1"), UsageError, "x.yaml:5", "must be at least 0, but got -1");
  EXPECT_ERROR(fails("master_weights: float32"), UsageError, "x.yaml:5",
               "holds for all parameters");
}

TEST(Paramwise, SaysWhatItSet) {
  const ExampleModel model;
  EXPECT_THAT(
      build(with_paramwise("custom_keys: {bn: {decay_mult: 0}}, bias_lr_mult: 2"), model).notes,
      UnorderedElementsAre("paramwise_options -- bn.weight:weight_decay=0.0",
                           "paramwise_options -- bn.bias:weight_decay=0.0",
                           "paramwise_options -- conv2.bias:lr=0.02",
                           "paramwise_options -- sub.conv1.bias:lr=0.02"));
}

TEST(Paramwise, SchedulesScaleEachGroup) {
  const ExampleModel model;
  const auto built = build(with_paramwise("bias_lr_mult: 2"), model);
  optim::LRScheduler scheduler(*built.optimizer, optim::step_lr(1, 0.5));
  scheduler.step();
  EXPECT_EQ(options_by_name(built).at("conv2.weight").lr(), 0.005);
  EXPECT_EQ(options_by_name(built).at("conv2.bias").lr(), 0.01);
}

TEST(Paramwise, StepsWithEachGroupsOptions) {
  ExampleModel model;
  for (const auto& parameter : model.parameters())
    parameter.mutable_grad() = torch::ones_like(parameter);
  std::map<std::string, torch::Tensor> before;
  for (const auto& item : model.named_parameters()) before[item.key()] = item.value().clone();
  const auto built = build(
      "optimizer: {type: SGD, lr: 0.25}\n"
      "paramwise_cfg: {custom_keys: {sub: {lr_mult: 0.5}, bn: {lr_mult: 0}}}",
      model);
  built.optimizer->step();
  for (const auto& item : model.named_parameters()) {
    const double lr = item.key().starts_with("sub") ? 0.125 : item.key()[0] == 'b' ? 0 : 0.25;
    EXPECT_TRUE(item.value().equal(before[item.key()] - lr)) << item.key();
  }
}

}  // namespace halfstep::train
