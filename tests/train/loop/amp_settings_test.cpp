#include "halfstep/train/loop/amp_settings.h"

#include "halfstep/core/error.h"

#include "tests/support/errors.h"
#include <gtest/gtest.h>

namespace halfstep::train {

namespace {

AmpSettings read(const std::string& yaml, c10::DeviceType device = c10::kCPU) {
  auto config = Config::parse(yaml, "x.yaml");
  auto amp = AmpSettings::read(config, device);
  config.finish();
  return amp;
}

TEST(AmpSettings, PlainWrapperIsFloat32) {
  const auto amp = read("{type: OptimWrapper}");
  EXPECT_FALSE(amp.enabled);
  EXPECT_FALSE(amp.loss_scale.options.enabled());
  EXPECT_EQ(amp.describe_dtype(), "float32");
}

TEST(AmpSettings, Float32SaysWhatItDoesNotRead) {
  const auto amp = read("{type: OptimWrapper, dtype: float16, loss_scale: 512}");
  EXPECT_FALSE(amp.enabled);
  EXPECT_EQ(amp.describe_scale(),
            "off (float32 needs none; the config's dtype and loss_scale wait for --amp)");
}

TEST(AmpSettings, MistakesInWhatFloat32DoesNotReadAreErrorsAllTheSame) {
  EXPECT_ERROR(read("{dtype: float17}"), UsageError, "x.yaml:1: dtype must be auto, float16");
  EXPECT_ERROR(read("{loss_scale: maybe}"), UsageError, "x.yaml:1: loss_scale must be auto");
  EXPECT_ERROR(read("{loss_scale: {init_scael: 5}}"), UsageError,
               "unknown key 'init_scael' in loss_scale", "did you mean 'init_scale'");
  EXPECT_ERROR(read("{autocast: {ops: {softmax: maybe}}}"), UsageError,
               "x.yaml:1: autocast: a rule must be one of");
}

TEST(AmpSettings, DefaultsShowInTheResolvedConfig) {
  auto config = Config::parse("{type: AmpOptimWrapper}");
  const auto amp = AmpSettings::read(config, c10::kCPU);
  EXPECT_EQ(config.resolved(), "type: AmpOptimWrapper\ndtype: auto\nloss_scale: auto\n");
  EXPECT_FALSE(amp.scaling);
  EXPECT_TRUE(read("{type: AmpOptimWrapper, dtype: float16, loss_scale: auto}").scaling);
}

TEST(AmpSettings, DtypeFollowsTheDevice) {
  EXPECT_EQ(read("{type: AmpOptimWrapper}").dtype, c10::kBFloat16);
  EXPECT_EQ(read("{type: AmpOptimWrapper}", c10::kCUDA).dtype, c10::kHalf);
}

TEST(AmpSettings, Float16ScalesBfloat16DoesNotUnlessTold) {
  EXPECT_TRUE(read("{type: AmpOptimWrapper, dtype: float16}").scaling);
  EXPECT_EQ(read("{type: AmpOptimWrapper, dtype: float16}").describe_scale(),
            "dynamic, from 65536");
  const auto bf16 = read("{type: AmpOptimWrapper, dtype: bfloat16}");
  EXPECT_FALSE(bf16.scaling);
  EXPECT_THAT(bf16.describe_scale(), ::testing::HasSubstr("off (bfloat16"));
  // MMEngine's --amp writes "dynamic" whatever the dtype.
  EXPECT_FALSE(read("{type: AmpOptimWrapper, dtype: bfloat16, loss_scale: dynamic}").scaling);
  EXPECT_TRUE(read("{type: AmpOptimWrapper, dtype: bfloat16, loss_scale: 512}").scaling);
  EXPECT_TRUE(
      read("{type: AmpOptimWrapper, dtype: bfloat16, loss_scale: {init_scale: 512}}").scaling);
}

TEST(AmpSettings, Float16IsRehearsedOnTheCpuOnly) {
  auto amp = read("{type: AmpOptimWrapper, dtype: float16}");
  EXPECT_TRUE(amp.rehearses());
  EXPECT_THAT(amp.describe_dtype(), ::testing::HasSubstr("rehearsed"));
  amp.fall_back();
  EXPECT_FALSE(amp.rehearses());
  for (const auto& other : {read("{type: AmpOptimWrapper, dtype: float16}", c10::kCUDA),
                            read("{type: AmpOptimWrapper}"), read("{type: OptimWrapper}")}) {
    EXPECT_FALSE(other.rehearses());
    EXPECT_THAT(other.describe_dtype(), ::testing::Not(::testing::HasSubstr("rehearsed")));
  }
}

TEST(AmpSettings, RefusesWhatItCantBe) {
  EXPECT_ERROR(read("{type: ApexOptimWrapper}"), UsageError, "x.yaml:1", "type",
               "OptimWrapper or AmpOptimWrapper", "ApexOptimWrapper");
  EXPECT_ERROR(read("{type: AmpOptimWrapper, dtype: float32}"), UsageError, "x.yaml:1", "dtype",
               "float16 or bfloat16", "float32");
}

TEST(AmpSwitch, TurnsAPlainWrapperIntoAnAmpOne) {
  auto config = Config::parse("{type: OptimWrapper}");
  EXPECT_TRUE(switch_amp_on(config).empty());
  EXPECT_EQ(config.get<std::string>("type"), "AmpOptimWrapper");
}

TEST(AmpSwitch, WarnsWhereItIsOneAlready) {
  auto config = Config::parse("{type: AmpOptimWrapper}", "x.yaml");
  EXPECT_THAT(switch_amp_on(config),
              ::testing::ElementsAre(::testing::HasSubstr("changes nothing: x.yaml:1")));
}

TEST(AmpSwitch, RefusesAnotherType) {
  auto config = Config::parse("{type: ApexOptimWrapper}", "x.yaml");
  EXPECT_ERROR(switch_amp_on(config), UsageError, "x.yaml:1", "--amp", "ApexOptimWrapper");
}

TEST(AmpSwitch, SwitchesEachOfSeveralWrappersAndNamesThem) {
  const std::string start = "constructor: OptimWrapperConstructor\ngenerator: {type: ";
  auto config =
      Config::parse(start + "OptimWrapper}\ncritic: {type: AmpOptimWrapper}\nlast: {}", "x.yaml");
  EXPECT_THAT(
      switch_amp_on(config),
      ::testing::ElementsAre(::testing::HasSubstr("changes nothing for 'critic': x.yaml:3")));
  for (const char* name : {"generator", "critic", "last"})
    EXPECT_EQ(config.child(name).get<std::string>("type"), "AmpOptimWrapper") << name;
  auto wrong = Config::parse(start + "ApexOptimWrapper}", "x.yaml");
  EXPECT_ERROR(switch_amp_on(wrong), UsageError, "x.yaml:2", "generator.type", "--amp",
               "ApexOptimWrapper");
}

TEST(WrapperNames, AreTheKeysBesideTheConstructor) {
  const auto names = [](const std::string& yaml) {
    auto config = Config::parse(yaml, "x.yaml");
    return wrapper_names(config);
  };
  EXPECT_THAT(names("{optimizer: {type: Adam}, clip_grad: {max_norm: 1}}"), ::testing::IsEmpty());
  EXPECT_THAT(names("{constructor: DefaultOptimWrapperConstructor}"), ::testing::IsEmpty());
  for (const char* constructor : {"OptimWrapperConstructor", "MultiOptimWrapperConstructor"})
    EXPECT_THAT(names(std::string("{constructor: ") + constructor + ", a: {}, b: {}}"),
                ::testing::ElementsAre("a", "b"));
  EXPECT_ERROR(names("{constructor: Mine, a: {}}"), UsageError, "x.yaml:1", "constructor",
               "MultiOptimWrapperConstructor", "Mine");
  EXPECT_ERROR(names("{constructor: OptimWrapperConstructor}"), UsageError,
               "must stand beside wrappers, each by its name");
  for (const char* stray : {"type: AmpOptimWrapper", "optimizer: {type: Adam}"})
    EXPECT_ERROR(names(std::string("{constructor: OptimWrapperConstructor, a: {}, ") + stray + "}"),
                 UsageError, "must stand in each of the wrappers");
  EXPECT_ERROR(names("{generator: {optimizer: {type: Adam}}}"), UsageError, "generator",
               "must stand beside constructor: OptimWrapperConstructor");
}

}  // namespace

}  // namespace halfstep::train
