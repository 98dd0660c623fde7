#include "halfstep/train/models/dcgan.h"

#include "halfstep/core/error.h"
#include "halfstep/optim.h"
#include "halfstep/optim_wrapper.h"
#include "halfstep/train/models/build_model.h"
#include "halfstep/train/models/dcgan_networks.h"
#include "halfstep/train/registry/registry.h"

#include <torch/types.h>

#include "tests/support/devices.h"
#include "tests/support/errors.h"

namespace halfstep::train {
namespace {

using ::testing::ElementsAre;
using ::testing::UnorderedElementsAre;

constexpr const char* kSmall =
    "type: Dcgan\n"
    "generator: {type: DcganGenerator, output_scale: 8, input_scale: 4, base_channels: 8}\n"
    "discriminator: {type: DcganDiscriminator, input_scale: 8, output_scale: 4, base_channels: 8}\n"
    "noise_size: 6\n";

std::shared_ptr<Dcgan> build_dcgan(const std::string& more = "", const std::string& yaml = kSmall) {
  auto config = Config::parse(yaml + more, "x.yaml");
  auto model = std::dynamic_pointer_cast<Dcgan>(models().build(config));
  config.finish();
  return model;
}

/// A small GAN with two Adams in wrappers.
struct Training {
  explicit Training(const AmpOptimWrapperOptions& options, const std::string& more = "",
                    c10::Device device = c10::kCPU, double lr = 1e-3) {
    torch::manual_seed(3);
    model = build_dcgan(more);
    model->to(device);
    const auto wrapper = [&](torch::nn::Module& part) {
      return std::make_shared<AmpOptimWrapper>(
          std::make_shared<optim::Adam>(part.parameters(),
                                        optim::AdamOptions(lr).betas({0.5, 0.999})),
          options);
    };
    wrappers.emplace(std::vector<OptimWrapperDict::NamedWrapper>{
        {"generator", wrapper(model->generator())},
        {"discriminator", wrapper(model->discriminator())}});
  }
  LogVars step() { return model->train_step({torch::rand({4, 1, 8, 8}), {}}, *wrappers); }
  /// Steps an optimizer has made.
  int64_t steps(const std::string& name) {
    const auto& state = (*wrappers)[name].optimizer().state();
    if (state.empty()) return 0;
    return static_cast<int64_t>(
        static_cast<const optim::FusedState&>(*state.begin()->second).step.item<float>());
  }
  std::vector<int64_t> steps() { return {steps("generator"), steps("discriminator")}; }

  std::shared_ptr<Dcgan> model;
  std::optional<OptimWrapperDict> wrappers;
};

class DcganModel : public halfstep::testing::DeviceTest {};

}  // namespace

TEST_P(DcganModel, MakesImagesAndScoresThem) {
  const auto model = build_dcgan();
  model->to(device());
  const auto images = model->forward(model->make_noise(5));
  EXPECT_EQ(images.sizes(), (torch::IntArrayRef{5, 1, 8, 8}));
  EXPECT_EQ(images.device(), device());
  EXPECT_LE(images.abs().max().item<double>(), 1);
  EXPECT_EQ(model->discriminator().forward(images).sizes(), (torch::IntArrayRef{5, 1}));
}

TEST_P(DcganModel, OneStepTrainsBoth) {
  Training training(AmpOptimWrapperOptions(), "", device());
  const auto log_vars = training.step();
  EXPECT_THAT(log_vars.keys(), ElementsAre("loss", "loss_disc_fake", "loss_disc_real", "loss_gen"));
  EXPECT_EQ(log_vars["loss"].item<double>(),
            (log_vars["loss_disc_fake"] + log_vars["loss_disc_real"]).item<double>());
  EXPECT_THAT(training.steps(), ElementsAre(1, 1));
  for (const auto& parameter : training.model->parameters())
    EXPECT_TRUE(parameter.requires_grad()) << "the discriminator is thawed";
}

HALFSTEP_ON_EACH_DEVICE(DcganModel);

TEST(DcganTraining, AccumulatesBothUpdates) {
  Training training(AmpOptimWrapperOptions().accumulative_counts(8));
  for (int i = 0; i < 7; ++i) EXPECT_FALSE(training.step().contains("loss_gen"));
  EXPECT_THAT(training.steps(), ElementsAre(0, 0));
  EXPECT_TRUE(training.step().contains("loss_gen"));
  EXPECT_THAT(training.steps(), ElementsAre(1, 1));
  EXPECT_EQ((*training.wrappers)["generator"].inner_count(), 8) << "eight batches of noise";
  for (int i = 0; i < 8; ++i) training.step();
  EXPECT_THAT(training.steps(), ElementsAre(2, 2));
}

TEST(DcganTraining, TakesTurnsAsTheConfigSays) {
  Training training(AmpOptimWrapperOptions(), "generator_steps: 3\ndiscriminator_steps: 2\n");
  training.step();
  EXPECT_THAT(training.steps(), ElementsAre(0, 1));
  training.step();
  EXPECT_THAT(training.steps(), ElementsAre(3, 2));
}

TEST(DcganTraining, TheGeneratorsTurnLeavesTheDiscriminatorAlone) {
  Training training(AmpOptimWrapperOptions(), "discriminator_steps: 2\n");
  training.step();
  training.wrappers->zero_grad();
  // This step's update of the discriminator zeroes its gradients; the generator makes none.
  training.step();
  for (const auto& parameter : training.model->discriminator().parameters())
    EXPECT_TRUE(!parameter.grad().defined() || parameter.grad().eq(0).all().item<bool>());
}

TEST(DcganTraining, LearnsInEachPrecision) {
  for (const auto dtype : {torch::kBFloat16, torch::kHalf}) {
    Training training(AmpOptimWrapperOptions().dtype(dtype).loss_scale(
                          GradScalerOptions().init_scale(1024).enabled(dtype == torch::kHalf)),
                      "", c10::kCPU, 5e-3);
    auto& model = *training.model;
    const auto mean = [&] {
      const torch::NoGradGuard no_grad;
      return model.forward(model.make_noise(64)).mean().item<double>();
    };
    EXPECT_NEAR(mean(), 0, 0.05);
    LogVars last;
    for (int i = 0; i < 150; ++i)
      last = model.train_step({torch::full({8, 1, 8, 8}, 0.8), {}}, *training.wrappers);
    EXPECT_GT(mean(), 0.5) << "real pictures are light, " << dtype;
    for (const auto& item : last)
      EXPECT_TRUE(item.value().isfinite().item<bool>()) << item.key() << " in " << dtype;
  }
}

TEST(DcganTraining, GivesImagesAsTheDataSetHasThem) {
  const auto model = build_dcgan();
  model->set_data_preprocessor(
      std::make_shared<DataPreprocessorImpl>(std::vector{0.5}, std::vector{0.5}));
  model->eval();
  const auto noise = model->make_noise(3);
  const auto images = model->predict(noise);
  EXPECT_TRUE(images.equal(model->forward(noise) * 0.5 + 0.5));
  EXPECT_TRUE(model->val_step({noise, {}}).equal(images));
  EXPECT_ERROR(model->loss({}), UsageError, "[BaseGan::loss]", "train_step", "test_dataloader");
}

TEST(DcganConfig, GeneratorAndModelAgreeOnTheNoise) {
  EXPECT_EQ(build_dcgan()->options().noise_size, 6);
  const std::string parts =
      "type: Dcgan\ndiscriminator: {type: DcganDiscriminator}\ngenerator: {type: DcganGenerator";
  EXPECT_EQ(build_dcgan("", parts + ", noise_size: 9}")->options().noise_size, 9);
  EXPECT_EQ(build_dcgan("", parts + ", noise_size: 9}\nnoise_size: 9")->options().noise_size, 9);
  EXPECT_ERROR(build_dcgan("", parts + ", noise_size: 9}\nnoise_size: 8"), UsageError,
               "x.yaml:4: noise_size must be the generator's, 9, but got 8");
  const auto standard = build_dcgan("", parts + "}");
  EXPECT_EQ(standard->predict(standard->make_noise(2)).sizes(), (torch::IntArrayRef{2, 1, 28, 28}));
}

TEST(DcganConfig, RefusesDataToValidateOnBeforeItIsTrained) {
  for (const char* key : {"val_dataloader", "test_dataloader"}) {
    auto config = Config::parse(
        c10::str("model: {type: Dcgan, generator: {type: DcganGenerator}, discriminator: {type: "
                 "DcganDiscriminator}}\n",
                 key, ": {dataset: {type: Mnist}}"),
        "x.yaml");
    EXPECT_ERROR(build_model(config), UsageError, "x.yaml:2: ", key,
                 "must be left out for a GAN, which is measured by its images (SampleGridHook)");
  }
}

TEST(DcganConfig, ErrorsNameTheKey) {
  EXPECT_ERROR(build_dcgan("generator_steps: 0"), UsageError, "x.yaml:5: generator_steps",
               "at least 1, but got 0");
  EXPECT_ERROR(build_dcgan("generator_step: 2"), UsageError, "did you mean 'generator_steps'");
  EXPECT_ERROR(build_dcgan("", "type: Dcgan\ndiscriminator: {type: DcganDiscriminator}"),
               UsageError, "key 'generator' is missing");
  const auto build_part = [](const std::string& yaml) {
    auto config = Config::parse(yaml, "x.yaml");
    models().build(config);
  };
  EXPECT_ERROR(build_part("{type: DcganGenerator, output_scale: 30}"), UsageError,
               "output_scale must be "
               "input_scale times 2, 4, 8",
               "(input_scale is 7), but got 30");
  EXPECT_ERROR(build_part("{type: DcganGenerator, base_channels: 1}"), UsageError,
               "base_channels must be at least 2");
  EXPECT_ERROR(build_part("{type: DcganDiscriminator, input_scale: 7}"), UsageError,
               "input_scale must be output_scale times");
  EXPECT_ERROR(DcganDiscriminator({.in_channels = 0}), UsageError, "[DcganDiscriminator]",
               "in_channels must be at least 1");
}

TEST(DcganNetworks, RefuseOtherShapes) {
  DcganGenerator generator({});
  EXPECT_ERROR(generator.forward(torch::ones({2, 63})), UsageError, "[DcganGenerator::forward]",
               "(n, 64), but got [2, 63]");
  DcganDiscriminator discriminator({});
  EXPECT_ERROR(discriminator.forward(torch::ones({2, 1, 14, 14})), UsageError,
               "(n, 1, 28, 28), but got [2, 1, 14, 14]");
}

TEST(DcganNetworks, StartAsDcganDoes) {
  torch::manual_seed(0);
  const DcganGenerator generator({});
  EXPECT_THAT(generator.named_parameters().keys(),
              ElementsAre("layers.0.weight", "layers.1.weight", "layers.1.bias", "layers.3.weight",
                          "layers.4.weight", "layers.4.bias", "layers.6.weight", "layers.6.bias"));
  const auto parameters = generator.named_parameters();
  EXPECT_NEAR(parameters["layers.0.weight"].std().item<double>(), 0.02, 1e-3);
  EXPECT_NEAR(parameters["layers.0.weight"].mean().item<double>(), 0, 1e-3);
  EXPECT_NEAR(parameters["layers.1.weight"].mean().item<double>(), 1, 1e-2);
  EXPECT_EQ(parameters["layers.6.bias"].abs().max().item<double>(), 0);
}

}  // namespace halfstep::train
