#include "halfstep/train/registry/registry.h"

#include "halfstep/core/error.h"

#include <torch/types.h>

#include "tests/support/errors.h"

namespace halfstep::train {
namespace {

// What a user's program defines and registers.
class Doubler : public Model {
 public:
  explicit Doubler(int64_t times) : times_(times) {}
  torch::Tensor forward(const torch::Tensor& input) override {
    auto x = input;
    for (int64_t i = 0; i < times_; ++i) x = x + x;
    return x;
  }

 private:
  int64_t times_;
};

const bool registered = models().add("TestDoubler", [](Config& config) {
  return std::make_shared<Doubler>(config.get<int64_t>("times", 1));
});

Config mapping(const std::string& yaml) {
  return Config::parse("\npart: " + yaml, "x.yaml").child("part");
}

}  // namespace

TEST(RegistryExtension, BuildsAUsersClassFromItsKeys) {
  ASSERT_TRUE(registered);
  Config config = mapping("{type: TestDoubler, times: 3}");
  const auto model = models().build(config);
  config.finish();
  EXPECT_EQ(model->forward(torch::ones({1})).item<float>(), 8.0f);

  Config defaults = mapping("{type: TestDoubler}");
  EXPECT_EQ(models().build(defaults)->forward(torch::ones({1})).item<float>(), 2.0f);
  EXPECT_EQ(defaults.resolved(), "type: TestDoubler\ntimes: 1\n");

  Config misspelt = mapping("{type: TestDoubler, time: 3}");
  models().build(misspelt);
  EXPECT_ERROR(misspelt.finish(), UsageError,
               "[config] x.yaml:2: unknown key 'time' in part; allowed: times, type; did you mean "
               "'times'?");
}

TEST(RegistryExtension, TakesAnyKindOfPart) {
  ASSERT_TRUE(losses().add("TestSum", [](Config&) -> Loss {
    return [](const torch::Tensor& output, const torch::Tensor&) { return output.sum(); };
  }));
  Config config = mapping("{type: TestSum}");
  EXPECT_EQ(losses().build(config)(torch::ones({3}), {}).item<float>(), 3.0f);
}

TEST(RegistryExtension, RefusesATakenName) {
  const auto factory = [](Config&) { return std::make_shared<Doubler>(1); };
  EXPECT_ERROR(models().add("TestDoubler", factory), UsageError,
               "[Registry::add] a model must have a name of its own, but got 'TestDoubler', which "
               "is taken; choose another");
  EXPECT_ERROR(models().add("Mlp", factory), UsageError, "but got 'Mlp', which is taken");
  Config config = mapping("{type: TestDoubler, times: 2}");
  EXPECT_EQ(models().build(config)->forward(torch::ones({1})).item<float>(), 4.0f);
}

TEST(Registries, KnowTheBuiltinsFromTheirFirstUse) {
  using ::testing::Contains;
  using ::testing::IsSupersetOf;
  EXPECT_THAT(models().names(), IsSupersetOf({"Mlp", "ConvNet"}));
  EXPECT_THAT(losses().names(), IsSupersetOf({"CrossEntropyLoss", "NLLLoss", "MSELoss"}));
  EXPECT_THAT(optimizers().names(), IsSupersetOf({"Adam", "AdamW", "SGD", "RMSprop", "Adagrad"}));
  EXPECT_THAT(
      schedulers().names(),
      ::testing::ElementsAre("ChainedScheduler", "ConstantLR", "CosineAnnealingLR",
                             "CosineAnnealingWarmRestarts", "CosineRestartLR", "ExponentialLR",
                             "LinearLR", "MultiStepLR", "OneCycleLR", "PolyLR", "PolynomialLR",
                             "ReduceOnPlateauLR", "SequentialLR", "StepLR"));
}

TEST(Registries, NameTheKnownTypesForAnUnknownOne) {
  Config config = mapping("{type: adam}");
  EXPECT_ERROR(optimizers().build(config, {}), UsageError,
               "[config] x.yaml:2: unknown optimizer 'adam'; known: Adagrad, Adam, AdamW, RMSprop, "
               "SGD; did you mean 'Adam'?");
  Config empty = mapping("{}");
  EXPECT_ERROR(optimizers().build(empty, {}), UsageError,
               "[config] x.yaml:2: key 'type' is missing in part; add it");
  Config number = mapping("{type: 5}");
  EXPECT_ERROR(optimizers().build(number, {}), UsageError,
               "[config] x.yaml:2: part.type must be a text, but got 5");
}

}  // namespace halfstep::train
