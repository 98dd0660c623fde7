#include "halfstep/apex/options.h"

#include "halfstep/core/error.h"

#include "tests/support/errors.h"

namespace halfstep::apex::testing {

constexpr auto f32 = c10::ScalarType::Float, f16 = c10::ScalarType::Half,
               bf16 = c10::ScalarType::BFloat16;

TEST(ApexOptions, LevelsAreApexsTable) {
  EXPECT_EQ(properties_of(OptLevel::O0),
            (Properties{OptLevel::O0, f32, false, std::nullopt, false, 1.0}));
  EXPECT_EQ(properties_of(OptLevel::O1), (Properties{OptLevel::O1, std::nullopt, true, std::nullopt,
                                                     std::nullopt, std::nullopt}));
  EXPECT_EQ(properties_of(OptLevel::O2),
            (Properties{OptLevel::O2, f16, false, true, true, std::nullopt}));
  EXPECT_EQ(properties_of(OptLevel::O3), (Properties{OptLevel::O3, f16, false, false, false, 1.0}));
  EXPECT_EQ(properties_of(OptLevel::O2, bf16).cast_model_type, bf16);
  EXPECT_EQ(AmpOptions().properties(), properties_of(OptLevel::O1));
}

TEST(ApexOptions, Names) {
  EXPECT_EQ(parse_opt_level("O2"), OptLevel::O2);
  for (const char* name : {"02", "O4", "o1", ""})
    EXPECT_ERROR(parse_opt_level(name), UsageError, "[apex::parse_opt_level]",
                 "letter O, not the number zero");
}

TEST(ApexOptions, OverridesReplaceSingleProperties) {
  auto expected = properties_of(OptLevel::O2);
  expected.loss_scale = 128;
  expected.keep_batchnorm_fp32 = false;
  EXPECT_EQ(AmpOptions(OptLevel::O2).loss_scale(128).keep_batchnorm_fp32(false).properties(),
            expected);
  EXPECT_EQ(AmpOptions(OptLevel::O3).dynamic_loss_scale().properties().loss_scale, std::nullopt);
  EXPECT_EQ(AmpOptions(OptLevel::O2).cast_model_type(std::nullopt).properties().cast_model_type,
            std::nullopt);
  EXPECT_EQ(AmpOptions(OptLevel::O2).half_dtype(bf16).properties().cast_model_type, bf16);
  EXPECT_EQ(AmpOptions(OptLevel::O3).master_weights(true).properties().master_weights, true);
}

TEST(ApexOptions, ContradictionsAreRefused) {
  const auto refused = [](const AmpOptions& options, const char* rule, const char* got) {
    EXPECT_ERROR(options.properties(), UsageError, "[apex::AmpOptions]", rule, got);
  };
  refused(AmpOptions(OptLevel::O1).cast_model_type(f16), "none or float32 with O1", "got float16");
  refused(AmpOptions(OptLevel::O2).patch_torch_functions(true), "must be false without O1", "O2");
  refused(AmpOptions(OptLevel::O1).keep_batchnorm_fp32(true), "must not be set with O1", "true");
  refused(AmpOptions(OptLevel::O1).master_weights(false), "must not be set with O1", "false");
  refused(AmpOptions().loss_scale(0), "above 0 and finite", "got 0");
  refused(AmpOptions().num_losses(0), "at least 1", "got 0");
  refused(AmpOptions().half_dtype(f32), "float16 or bfloat16", "got float32");
  EXPECT_NO_THROW(AmpOptions(OptLevel::O1).cast_model_type(f32).properties());
}

TEST(ApexOptions, PrintsAsATable) {
  EXPECT_EQ(to_string(properties_of(OptLevel::O2)),
            "opt_level              : O2\n"
            "cast_model_type        : float16\n"
            "patch_torch_functions  : false\n"
            "keep_batchnorm_fp32    : true\n"
            "master_weights         : true\n"
            "loss_scale             : dynamic\n");
}

}  // namespace halfstep::apex::testing
