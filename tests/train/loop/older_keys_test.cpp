#include "halfstep/train/loop/older_keys.h"

#include "halfstep/core/error.h"
#include "halfstep/train/loop/amp_settings.h"
#include "halfstep/train/loop/trainer.h"

#include "tests/support/errors.h"
#include "tests/support/temp_folder.h"
#include "tests/train/loop/blobs.h"

namespace halfstep::train {

namespace {

const char* const plain_wrapper = "optim_wrapper:\n  type: OptimWrapper\n";

// The settings of a config that has nothing but an optim_wrapper.
AmpSettings read_older(const std::string& fp16, const std::string& wrapper = plain_wrapper) {
  auto config = Config::parse(wrapper + "fp16: " + fp16 + "\n", "x.yaml");
  apply_older_keys(config);
  auto optim_wrapper = config.child("optim_wrapper");
  auto amp = AmpSettings::read(optim_wrapper, c10::kCPU);
  config.finish();
  return amp;
}

std::string message(const std::string& text) {
  try {
    auto config = Config::parse(text, "x.yaml");
    apply_older_keys(config);
    config.finish();
  } catch (const UsageError& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace

// The three lines of MMCV's page on AMP.
TEST(OlderFp16, MeansWhatItDidInMmcv) {
  const auto fixed = read_older("{loss_scale: 512.}");
  EXPECT_TRUE(fixed.enabled);
  EXPECT_EQ(fixed.dtype, c10::kHalf);
  EXPECT_EQ(fixed.loss_scale.dialect, "mmcv_static");
  EXPECT_EQ(fixed.loss_scale.options.init_scale(), 512);
  EXPECT_FALSE(fixed.loss_scale.options.dynamic());
  EXPECT_TRUE(fixed.loss_scale.options.check_overflow()) << "a step with inf is skipped";

  const auto dynamic = read_older("{loss_scale: dynamic}");
  EXPECT_EQ(dynamic.loss_scale.dialect, "torch");
  EXPECT_EQ(dynamic.loss_scale.options.init_scale(), 65536);
  EXPECT_TRUE(dynamic.scaling);

  const auto mapping = read_older("{loss_scale: {init_scale: 512., mode: dynamic}}");
  EXPECT_EQ(mapping.loss_scale.dialect, "mmcv_legacy");
  EXPECT_EQ(mapping.loss_scale.options.init_scale(), 512);
  EXPECT_EQ(mapping.loss_scale.options.growth_interval(), 1000);
  EXPECT_EQ(mapping.loss_scale.options.min_scale(), 1);

  const auto torch = read_older("{loss_scale: {init_scale: 512., growth_interval: 100}}");
  EXPECT_EQ(torch.loss_scale.dialect, "torch");
  EXPECT_EQ(torch.loss_scale.options.growth_interval(), 100);

  EXPECT_EQ(read_older("{loss_scale: 512}").loss_scale.options.init_scale(), 512);
  EXPECT_EQ(read_older("{}").describe_scale(), "static 512") << "Fp16OptimizerHook's default";
  EXPECT_FALSE(read_older("null").enabled);
}

TEST(OlderFp16, AgreesWithAnAmpOptimWrapper) {
  EXPECT_EQ(
      read_older("{loss_scale: 64.}", "optim_wrapper: {type: AmpOptimWrapper, dtype: float16}\n")
          .describe_scale(),
      "static 64");
  EXPECT_EQ(read_older("{loss_scale: 64.}", "optim_wrapper: {}\n").describe_scale(), "static 64");
}

TEST(OlderFp16, IsOfOneOptimizer) {
  auto config = Config::parse(
      "fp16: {loss_scale: 8.}\noptim_wrapper: {constructor: DefaultOptimWrapperConstructor}\n");
  apply_older_keys(config);
  EXPECT_EQ(config.child("optim_wrapper").get<double>("loss_scale"), 8);
}

TEST(OlderFp16, MovesIntoTheOptimWrapper) {
  auto config =
      Config::parse(std::string(plain_wrapper) + "fp16: {loss_scale: {init_scale: 8}}\n", "x.yaml");
  apply_older_keys(config);
  const std::string moved = config.resolved();
  EXPECT_EQ(moved,
            "optim_wrapper:\n  type: AmpOptimWrapper\n  dtype: float16\n  loss_scale:\n"
            "    init_scale: 8\n");
  auto again = Config::parse(moved);
  apply_older_keys(again);
  EXPECT_EQ(again.resolved(), moved);
  auto wrapper = config.child("optim_wrapper");
  EXPECT_EQ(wrapper.where("loss_scale"), "x.yaml:3");
  EXPECT_EQ(wrapper.where("type"), "fp16 (x.yaml:3)");
  EXPECT_THAT(switch_amp_on(wrapper),
              ::testing::ElementsAre(
                  "--amp changes nothing: fp16 (x.yaml:3) already has type AmpOptimWrapper"));
}

TEST(OlderFp16, ConflictsAreErrorsThatNameBothPlaces) {
  const auto with = [](const std::string& keys) {
    return message("fp16:\n  loss_scale: 512.\noptim_wrapper:\n  " + keys + "\n");
  };
  EXPECT_EQ(with("loss_scale: 512."),
            "[config] x.yaml:4: optim_wrapper.loss_scale must be left out beside fp16 (x.yaml:1), "
            "which has one, but got 512.");
  EXPECT_EQ(with("dtype: bfloat16"),
            "[config] x.yaml:4: optim_wrapper.dtype must be float16, or left out, beside fp16 "
            "(x.yaml:1), but got bfloat16");
  EXPECT_EQ(with("type: ApexOptimWrapper"),
            "[config] x.yaml:4: optim_wrapper.type must be OptimWrapper or AmpOptimWrapper beside "
            "fp16 (x.yaml:1), but got ApexOptimWrapper");
  EXPECT_EQ(with("constructor: OptimWrapperConstructor\n  a: {}"),
            "[config] x.yaml:1: fp16 must be left out with several optimizers (x.yaml:4 has a "
            "constructor), each of which has a loss_scale of its own, but got a mapping");
}

TEST(OlderFp16, IsReadStrictly) {
  EXPECT_ERROR(read_older("{loss_scales: 512.}"), UsageError,
               "[config] x.yaml:3: unknown key 'loss_scales' in fp16; allowed: loss_scale");
  EXPECT_ERROR(read_older("{loss_scale: 512., coalesce: false}"), UsageError,
               "unknown key 'coalesce'");
  EXPECT_ERROR(read_older("{loss_scale: auto}"), UsageError,
               "[config] x.yaml:3: fp16.loss_scale must be dynamic, a number or a mapping, but got "
               "auto");
  EXPECT_ERROR(read_older("{loss_scale: {init_scale: x}}"), UsageError,
               "[config] x.yaml:3: fp16.loss_scale.init_scale must be a number, but got x");
  EXPECT_ERROR(read_older("true"), UsageError,
               "[config] x.yaml:3: fp16 must be a mapping, but got true");
  EXPECT_THAT(message("fp16: {}"), ::testing::HasSubstr("key 'optim_wrapper' is missing"));
}

TEST(OlderKeys, AreRefusedWithWhatToWrite) {
  EXPECT_EQ(message("a: 1\noptimizer: {type: Adam}"),
            "[config] x.yaml:2: optimizer is a key of MMCV's configs and must be written as "
            "optim_wrapper: {optimizer: {...}}, but got a mapping");
  EXPECT_THAT(message("runner: {fp16_loss_scaler: {init_scale: 512}}"),
              ::testing::HasSubstr("optim_wrapper: {loss_scale: {...}}"));
  EXPECT_THAT(message("optimizer_config: {grad_clip: {max_norm: 1}}"),
              ::testing::HasSubstr("clip_grad: {max_norm: ..., norm_type: ...}"));
  for (const char* key : {"lr_config", "momentum_config", "total_epochs", "data", "log_config",
                          "checkpoint_config", "evaluation", "seed", "resume_from"})
    EXPECT_THAT(message(std::string(key) + ": 1"),
                ::testing::StartsWith(std::string("[config] x.yaml:1: ") + key + " is a key of"));
}

TEST(OlderFp16, TrainsInFloat16WithItsScale) {
  testing::register_blobs();
  const halfstep::testing::TempFolder dir;
  auto config = Config::parse(testing::blobs_config, "blobs.yaml");
  config.override_with("fp16={loss_scale: 128.}");
  Trainer trainer(std::move(config), {.work_dir = dir.path()});
  EXPECT_EQ(trainer.parts().amp().describe_scale(), "static 128");
  EXPECT_EQ(trainer.train(), Trainer::Outcome::finished);
  EXPECT_THAT(trainer.dtypes().summary(), ::testing::ContainsRegex("linear +float16"));
  EXPECT_THAT(halfstep::testing::read_file(trainer.work_dir().config_file()),
              ::testing::AllOf(::testing::HasSubstr("  loss_scale: 128.\n"),
                               ::testing::Not(::testing::HasSubstr("fp16:"))));
}

}  // namespace halfstep::train
