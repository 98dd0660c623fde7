#include "halfstep/train/loop/loss_scale.h"

#include "halfstep/core/error.h"
#include "halfstep/scaling/dialects.h"

#include "tests/support/errors.h"
#include <gtest/gtest.h>

namespace halfstep::train {

namespace {

LossScale read_scale(const std::string& value) {
  auto config = Config::parse("{loss_scale: " + value + "}", "x.yaml");
  auto scale = LossScale::read(config);
  config.finish();
  return scale;
}

TEST(LossScaleConfig, IsDynamicANumberOrAMapping) {
  EXPECT_EQ(read_scale("dynamic").options.rule(), ScaleRule());
  EXPECT_EQ(read_scale("dynamic").describe(), "dynamic, from 65536");
  const auto fixed = read_scale("512");
  EXPECT_FALSE(fixed.options.dynamic());
  EXPECT_TRUE(fixed.options.check_overflow());
  EXPECT_EQ(fixed.options.init_scale(), 512);
  EXPECT_EQ(fixed.describe(), "static 512");
  const auto mapping =
      read_scale("{init_scale: 8, growth_interval: 3, growth_factor: 4.0, backoff_factor: 0.25}");
  EXPECT_EQ(mapping.options.init_scale(), 8);
  EXPECT_EQ(mapping.options.growth_interval(), 3);
  EXPECT_EQ(mapping.options.growth_factor(), 4);
  EXPECT_EQ(mapping.options.backoff_factor(), 0.25);
}

TEST(LossScaleConfig, EveryDialectReadsAsItself) {
  for (const auto& name : dialects::names()) {
    SCOPED_TRACE(name);
    const auto scale = read_scale("{dialect: " + name + "}");
    const auto expected = dialects::by_name(name);
    EXPECT_EQ(scale.dialect, name);
    EXPECT_EQ(scale.options.rule(), expected.rule());
    EXPECT_EQ(scale.options.init_scale(), expected.init_scale());
    EXPECT_EQ(scale.options.enabled(), expected.enabled());
    EXPECT_EQ(scale.options.check_overflow(), expected.check_overflow());
    const bool checks = expected.enabled() && expected.check_overflow();
    EXPECT_EQ(scale.options.at_min_scale(), checks ? AtMinScale::stop : AtMinScale::keep_going);
    EXPECT_EQ(scale.options.min_scale_patience(), checks && name != "deepspeed" ? 20 : 1);
    EXPECT_NO_THROW(scale.options.validate());
  }
}

TEST(LossScaleConfig, OverridesChangeADialect) {
  const auto scale = read_scale(
      "{dialect: deepspeed, init_scale: 64, min_scale: 2, max_scale: 1024, hysteresis: 3, "
      "hysteresis_refill: on_clean_step, growth_interval: 7}");
  auto expected = dialects::deepspeed().min_scale(2).max_scale(1024).hysteresis(3);
  expected.hysteresis_refill(HysteresisRefill::on_clean_step).growth_interval(7);
  EXPECT_EQ(scale.options.rule(), expected.rule());
  EXPECT_EQ(scale.options.init_scale(), 64);
  EXPECT_EQ(scale.describe(), "dynamic, from 64 (deepspeed)");
  EXPECT_EQ(read_scale("{dialect: oneflow_static, init_scale: 16}").describe(),
            "static 16, unchecked (oneflow_static)");
  EXPECT_EQ(read_scale("{dialect: jmp_no_op}").describe(), "off (jmp_no_op)");
  const auto factor = read_scale("{dialect: apex, backoff_factor: 0.25}");
  EXPECT_FALSE(factor.options.backoff_divides());
  EXPECT_EQ(factor.options.backoff_factor(), 0.25);
}

// With `mode`, and with the names of its numbers, a mapping is MMCV's own scaler.
TEST(LossScaleConfig, MmcvsMappingsMeanMmcvsScaler) {
  const auto own =
      read_scale("{mode: dynamic, init_scale: 1024., scale_factor: 4., scale_window: 50}");
  EXPECT_EQ(own.dialect, "mmcv_legacy");
  EXPECT_EQ(own.options.rule(),
            dialects::mmcv_legacy().growth_factor(4).growth_interval(50).rule());
  EXPECT_EQ(own.options.init_scale(), 1024);
  EXPECT_EQ(read_scale("{dialect: mmcv, scale_window: 50}").dialect, "mmcv_legacy");
  const auto fixed = read_scale("{mode: static, init_scale: 512.}");
  EXPECT_EQ(fixed.dialect, "mmcv_legacy_static");
  EXPECT_EQ(fixed.options.init_scale(), 512);
  EXPECT_EQ(read_scale("{dialect: mmcv, growth_interval: 9}").options.rule(),
            dialects::torch().growth_interval(9).rule());
}

TEST(LossScaleConfig, PolicyAtTheMinimumScale) {
  EXPECT_EQ(read_scale("dynamic").options.at_min_scale(), AtMinScale::stop);
  EXPECT_EQ(read_scale("512").options.min_scale_patience(), 20);
  const auto scale = read_scale("{at_min_scale: fall_back, min_scale_patience: 3}");
  EXPECT_EQ(scale.options.at_min_scale(), AtMinScale::fall_back);
  EXPECT_EQ(scale.options.min_scale_patience(), 3);
  EXPECT_EQ(read_scale("{dialect: deepspeed, at_min_scale: continue}").options.at_min_scale(),
            AtMinScale::keep_going);
  EXPECT_ERROR(read_scale("{at_min_scale: never}"), UsageError, "at_min_scale",
               "must be stop, fall_back or continue");
  EXPECT_ERROR(read_scale("{dialect: apex_static, at_min_scale: stop}"), UsageError,
               "unknown key 'at_min_scale'");
}

TEST(LossScaleConfig, RefusesWhatItCantBe) {
  EXPECT_ERROR(read_scale("dynmic"), UsageError, "x.yaml:1", "loss_scale", "dynmic");
  EXPECT_ERROR(read_scale("-1"), UsageError, "loss_scale", "above 0");
  EXPECT_ERROR(read_scale("{growth_factor: 1}"), UsageError, "growth_factor", "above 1");
  EXPECT_ERROR(read_scale("{backoff_factor: 1}"), UsageError, "backoff_factor", "below 1");
  EXPECT_ERROR(read_scale("{growth_interval: 0}"), UsageError, "growth_interval", "at least 1");
  EXPECT_ERROR(read_scale("{interval: 10}"), UsageError, "unknown key 'interval'",
               "growth_interval");
  EXPECT_ERROR(read_scale("{dialect: apx}"), UsageError, "x.yaml:1", "dialect",
               "must be one of torch,", "megatron_static", "apx");
  EXPECT_ERROR(read_scale("{mode: fixed}"), UsageError, "mode", "must be dynamic or static");
  EXPECT_ERROR(read_scale("{dialect: apex, mode: static}"), UsageError, "unknown key 'mode'");
  EXPECT_ERROR(read_scale("{dialect: apex_static, growth_factor: 3}"), UsageError,
               "unknown key 'growth_factor'");
  EXPECT_ERROR(read_scale("{min_scale: -1}"), UsageError, "min_scale", "0 or more");
  EXPECT_ERROR(read_scale("{init_scale: 2, min_scale: 4}"), UsageError, "min_scale",
               "at most init_scale 2");
  EXPECT_ERROR(read_scale("{min_scale: 8, max_scale: 4}"), UsageError, "max_scale",
               "at least min_scale 8");
  EXPECT_ERROR(read_scale("{hysteresis: 0}"), UsageError, "hysteresis", "at least 1");
  EXPECT_ERROR(read_scale("{hysteresis_refill: never}"), UsageError, "hysteresis_refill",
               "on_growth or on_clean_step");
}

TEST(LossScaleErrors, NameThePlaceAndTheRule) {
  const auto refuse = [](const std::string& value) {
    auto config = Config::parse("{loss_scale: " + value + "}", "x.yaml");
    LossScale::read(config);
  };
  EXPECT_ERROR(refuse("1e300"), UsageError, "x.yaml:1", "must be in the range of float32", "1e300");
  EXPECT_ERROR(refuse("1e-60"), UsageError, "x.yaml:1", "must be in the range of float32");
  EXPECT_ERROR(refuse("{init_scale: 1e39}"), UsageError, "loss_scale.init_scale",
               "must be in the range of float32");
  EXPECT_ERROR(refuse("true"), UsageError, "x.yaml:1",
               "must be auto, dynamic, a number or a mapping", "but got true");
}

}  // namespace

}  // namespace halfstep::train
