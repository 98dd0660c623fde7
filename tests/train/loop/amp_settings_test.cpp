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
  EXPECT_TRUE(read("{type: AmpOptimWrapper, dtype: bfloat16, loss_scale: dynamic}").scaling);
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
  EXPECT_EQ(switch_amp_on(config), "");
  EXPECT_EQ(config.get<std::string>("type"), "AmpOptimWrapper");
}

TEST(AmpSwitch, WarnsWhereItIsOneAlready) {
  auto config = Config::parse("{type: AmpOptimWrapper}", "x.yaml");
  EXPECT_THAT(switch_amp_on(config), ::testing::HasSubstr("changes nothing"));
}

TEST(AmpSwitch, RefusesAnotherType) {
  auto config = Config::parse("{type: ApexOptimWrapper}", "x.yaml");
  EXPECT_ERROR(switch_amp_on(config), UsageError, "x.yaml:1", "--amp", "ApexOptimWrapper");
}

}  // namespace

}  // namespace halfstep::train
