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
  EXPECT_FALSE(amp.scaler.enabled());
  EXPECT_EQ(amp.describe_dtype(), "float32");
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

TEST(AmpSettings, ScaleIsDynamicStaticOrAMapping) {
  const auto fixed = read("{type: AmpOptimWrapper, loss_scale: 512}");
  EXPECT_EQ(fixed.static_scale, 512.0);
  EXPECT_EQ(fixed.describe_scale(), "static 512");
  const auto mapping = read(
      "{type: AmpOptimWrapper, loss_scale: {init_scale: 8, growth_interval: 3, growth_factor: 4.0, "
      "backoff_factor: 0.25}}");
  EXPECT_FALSE(mapping.static_scale.has_value());
  EXPECT_EQ(mapping.scaler.init_scale(), 8);
  EXPECT_EQ(mapping.scaler.growth_interval(), 3);
  EXPECT_EQ(mapping.scaler.growth_factor(), 4);
  EXPECT_EQ(mapping.scaler.backoff_factor(), 0.25);
}

TEST(AmpSettings, RefusesWhatItCantBe) {
  EXPECT_ERROR(read("{type: ApexOptimWrapper}"), UsageError, "x.yaml:1", "type",
               "OptimWrapper or AmpOptimWrapper", "ApexOptimWrapper");
  EXPECT_ERROR(read("{type: AmpOptimWrapper, dtype: float32}"), UsageError, "x.yaml:1", "dtype",
               "float16 or bfloat16", "float32");
  EXPECT_ERROR(read("{type: AmpOptimWrapper, loss_scale: dynmic}"), UsageError, "x.yaml:1",
               "loss_scale", "dynmic");
  EXPECT_ERROR(read("{type: AmpOptimWrapper, loss_scale: -1}"), UsageError, "loss_scale",
               "above 0");
  EXPECT_ERROR(read("{type: AmpOptimWrapper, loss_scale: {growth_factor: 1}}"), UsageError,
               "growth_factor", "above 1");
  EXPECT_ERROR(read("{type: AmpOptimWrapper, loss_scale: {backoff_factor: 1}}"), UsageError,
               "backoff_factor", "below 1");
  EXPECT_ERROR(read("{type: AmpOptimWrapper, loss_scale: {growth_interval: 0}}"), UsageError,
               "growth_interval", "at least 1");
  EXPECT_ERROR(read("{type: AmpOptimWrapper, loss_scale: {interval: 10}}"), UsageError,
               "unknown key 'interval'", "growth_interval");
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
