// What `halfstep doctor` measures and advises; the command itself is in
// tests/train/process/doctor_test.py.
#include "halfstep/core/error.h"
#include "halfstep/train/doctor/advice.h"
#include "halfstep/train/doctor/rates.h"
#include "halfstep/train/doctor/trial.h"

#include "tests/support/errors.h"
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace halfstep::train {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

PrecisionFigures rate(c10::ScalarType dtype, double product, bool rehearsed = false) {
  return {.dtype = dtype, .rehearsed = rehearsed, .rates = {.product = product, .convolution = 1}};
}

PrecisionFigures tried(c10::ScalarType dtype, double seconds, int64_t memory,
                       bool rehearsed = false) {
  auto figures = rate(dtype, 1, rehearsed);
  figures.trial = Trial{.seconds = seconds, .memory = memory, .steps = 20};
  return figures;
}

PrecisionFigures failed(c10::ScalarType dtype) {
  auto figures = rate(dtype, 1);
  figures.trial = Trial{.error = "[train] no"};
  return figures;
}

TEST(DoctorAdvice, GoesByTheRateOfProducts) {
  EXPECT_THAT(advice({rate(c10::kFloat, 1e11), rate(c10::kBFloat16, 7.5e11),
                      rate(c10::kHalf, 9e11, /*rehearsed=*/true)}),
              StartsWith("Train in bfloat16 (--amp --cfg-options optim_wrapper.dtype=bfloat16): "
                         "products are 7.5 times as fast as in float32"));
  EXPECT_EQ(advice({rate(c10::kFloat, 3e11), rate(c10::kBFloat16, 1e11)}),
            "Train in float32 here: products in bfloat16 take 3.0 times as long.");
  EXPECT_THAT(advice({rate(c10::kFloat, 1e11), rate(c10::kBFloat16, 1.02e11)}),
              HasSubstr("equally fast here: bfloat16 saves memory, not time"));
}

TEST(DoctorAdvice, NeverTakesWhatIsRehearsed) {
  EXPECT_EQ(advice({rate(c10::kFloat, 1e11), rate(c10::kHalf, 9e11, /*rehearsed=*/true)}),
            "Train in float32 here: no 16-bit type could be tried.");
}

TEST(DoctorAdvice, TakesFloat16WhereItIsClearlyFaster) {
  const auto with = [](double half) {
    return advice({rate(c10::kFloat, 1), rate(c10::kBFloat16, 2), rate(c10::kHalf, half)});
  };
  EXPECT_THAT(with(2.05), StartsWith("Train in bfloat16"));
  EXPECT_THAT(with(2.2), StartsWith("Train in float16"));
}

TEST(DoctorAdvice, GoesByTheTrialsOfAConfig) {
  EXPECT_EQ(advice({tried(c10::kFloat, 0.2, 500), tried(c10::kBFloat16, 0.08, 300),
                    tried(c10::kHalf, 0.01, 1, /*rehearsed=*/true)}),
            "Train this config in bfloat16 (--amp --cfg-options optim_wrapper.dtype=bfloat16): a "
            "step is 2.5 times as fast as in float32, with 300 MiB instead of 500.");
  EXPECT_THAT(
      advice({tried(c10::kFloat, 0.2, 500), failed(c10::kBFloat16), tried(c10::kHalf, 0.1, 300)}),
      HasSubstr("and a loss scale, which comes by itself"));
  EXPECT_EQ(advice({tried(c10::kFloat, 0.1, 500), tried(c10::kBFloat16, 0.25, 300)}),
            "Train this config in float32: a step in bfloat16 takes 2.5 times as long, with 300 "
            "MiB instead of 500.");
  EXPECT_THAT(advice({tried(c10::kFloat, 0.1, 500), tried(c10::kBFloat16, 0.101, 300)}),
              StartsWith("float32 and bfloat16 are equally fast for this config; bfloat16 needs "
                         "300 MiB instead of 500"));
}

TEST(DoctorAdvice, NamesAnOptionForEachOptimizer) {
  EXPECT_THAT(advice({tried(c10::kFloat, 0.2, 500), tried(c10::kBFloat16, 0.08, 300)},
                     {"optim_wrapper.generator.dtype=", "optim_wrapper.discriminator.dtype="}),
              HasSubstr("--cfg-options optim_wrapper.generator.dtype=bfloat16 "
                        "optim_wrapper.discriminator.dtype=bfloat16): "));
}

TEST(DoctorAdvice, OfAConfigNeverGoesByRates) {
  EXPECT_EQ(advice({failed(c10::kFloat), tried(c10::kBFloat16, 0.2, 300)}),
            "Train this config in bfloat16 (--amp --cfg-options optim_wrapper.dtype=bfloat16): "
            "float32 fails here.");
  EXPECT_EQ(advice({failed(c10::kFloat), failed(c10::kBFloat16),
                    tried(c10::kHalf, 0.1, 300, /*rehearsed=*/true)}),
            "This config runs here in no precision but a rehearsed one.");
  EXPECT_THAT(advice({tried(c10::kFloat, 0.2, 300), failed(c10::kBFloat16)}),
              StartsWith("Train in float32 here"));
}

TEST(DoctorRates, AreThoseOfAComputer) {
  for (const auto dtype : {c10::kFloat, c10::kBFloat16, c10::kHalf}) {
    const auto rates = measure_rates(c10::kCPU, dtype);
    for (const double rate : {rates.product, rates.convolution}) {
      EXPECT_GT(rate, 1e8) << dtype;
      EXPECT_LT(rate, 1e15) << dtype;
    }
  }
  const double memory = measure_memory_rate(c10::kCPU);
  EXPECT_GT(memory, 1e8);
  EXPECT_LT(memory, 1e13);
}

TEST(DoctorTrial, PrecisionIsSetForEveryOptimizer) {
  const auto type_and_dtype = [](Config wrapper) {
    return wrapper.get<std::string>("type") + " " + wrapper.get<std::string>("dtype", "none");
  };
  auto one = Config::parse(
      "optim_wrapper: {type: AmpOptimWrapper, loss_scale: 8., optimizer: {type: Adam}}");
  set_precision(one, c10::kHalf);
  EXPECT_EQ(type_and_dtype(one.child("optim_wrapper")), "AmpOptimWrapper float16");
  set_precision(one, c10::kFloat);
  EXPECT_EQ(one.child("optim_wrapper").get<std::string>("type"), "OptimWrapper");

  auto two = Config::parse(R"(optim_wrapper:
  constructor: OptimWrapperConstructor
  generator: {type: OptimWrapper, optimizer: {type: Adam}}
  discriminator: {optimizer: {type: Adam}}
)");
  set_precision(two, c10::kBFloat16);
  for (const char* name : {"generator", "discriminator"})
    EXPECT_EQ(type_and_dtype(two.child("optim_wrapper").child(name)), "AmpOptimWrapper bfloat16");

  auto older = Config::parse("fp16: {loss_scale: 512.}\noptimizer: {type: Adam}\n");
  EXPECT_ERROR(set_precision(older, c10::kFloat), UsageError, "[config]");
}

}  // namespace
}  // namespace halfstep::train
