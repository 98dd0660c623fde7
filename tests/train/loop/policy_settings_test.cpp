#include "halfstep/train/loop/policy_settings.h"

#include "halfstep/autocast/compiled_policy.h"
#include "halfstep/core/error.h"
#include "halfstep/train/loop/amp_settings.h"

#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/linear.h>

#include "tests/support/errors.h"

namespace halfstep::train {

namespace {

std::optional<OpPolicy> read_policy(const std::string& yaml,
                                    c10::DeviceType device_type = c10::kCPU) {
  auto config = Config::parse(yaml, "x.yaml");
  auto policy = read_policy(config, device_type);
  config.finish();
  return policy;
}

}  // namespace

TEST(PolicySettings, AreNoneWithoutTheKey) {
  EXPECT_FALSE(read_policy("{}"));
}

TEST(PolicySettings, ReadAPresetAndItsChanges) {
  const auto policy =
      read_policy("{autocast: {policy: torch, ops: {softmax: float32, linear: keep, bmm: none}}}");
  ASSERT_TRUE(policy);
  EXPECT_EQ(policy->base(), "torch(cpu)");
  EXPECT_EQ(policy->rule("softmax.int"), CastRule::float32);
  EXPECT_EQ(policy->rule("addmm"), CastRule::keep);
  EXPECT_EQ(policy->rule("bmm"), std::nullopt);
  EXPECT_EQ(policy->rule("mm"), CastRule::lower_precision);
  EXPECT_EQ(read_policy("{autocast: {}}", c10::kCUDA)->base(), "torch(cuda)");
}

// A family first, then one of its ops.
TEST(PolicySettings, ApplyChangesInTheOrderWritten) {
  const auto policy = read_policy("{autocast: {ops: {matmul: float32, mm: lower_precision}}}");
  EXPECT_EQ(policy->rule("mm"), CastRule::lower_precision);
  EXPECT_EQ(policy->rule("bmm"), CastRule::float32);
  const auto other = read_policy("{autocast: {ops: {mm: lower_precision, matmul: float32}}}");
  EXPECT_EQ(other->rule("mm"), CastRule::float32);
}

TEST(PolicySettings, SayWhereTheyAreWrong) {
  EXPECT_ERROR(read_policy("autocast:\n  ops:\n    sofmax: float32"), UsageError,
               "[config] x.yaml:3: autocast: an op must be one that LibTorch has, but got 'sofmax'",
               "did you mean 'softmax'?");
  EXPECT_ERROR(read_policy("autocast:\n  ops:\n    softmax: float23"), UsageError,
               "[config] x.yaml:3: ", "but got 'float23'", "did you mean 'float32'?");
  EXPECT_ERROR(read_policy("autocast:\n  policy: toch"), UsageError,
               "[config] x.yaml:2: ", "a preset must be torch,", "did you mean 'torch'?");
  EXPECT_ERROR(read_policy("{autocast: {opps: {}}}"), UsageError, "unknown key 'opps'");
  EXPECT_ERROR(read_policy("{autocast: {ops: {softmax: 3}}}"), UsageError, "x.yaml:1");
}

TEST(PolicySettings, ReadRulesByModuleAndBindThem) {
  torch::nn::Sequential net(torch::nn::Linear(2, 2), torch::nn::Linear(2, 2));
  const auto bound = [&](const std::string& yaml) {
    auto config = Config::parse(yaml, "x.yaml");
    auto policy = read_policy(config, c10::kCPU);
    bind_policy(config, policy, *net);
    config.finish();
    return policy;
  };
  const auto policy =
      bound("{autocast: {ops: {mm: keep}, modules: {'0': float32, '[1-9]': keep}}}");
  EXPECT_THAT(policy->module_rules(),
              ::testing::ElementsAre(::testing::Pair("0", CastRule::float32),
                                     ::testing::Pair("[1-9]", CastRule::keep)));
  EXPECT_EQ(policy->rule("mm"), CastRule::keep);
  // The rules of a bound policy can be used, others can't.
  EXPECT_EQ(policy->compiled()->calls("mm"), 0);
  EXPECT_FALSE(bound("{}"));
  EXPECT_TRUE(bound("{autocast: {}}"));

  EXPECT_ERROR(bound("autocast:\n  policy: torch\n  modules: {head: float32}"), UsageError,
               "[config] x.yaml:3: autocast: a module must be one of the tree's, but got 'head'");
  EXPECT_ERROR(bound("autocast:\n  modules:\n    '0': float23"), UsageError,
               "[config] x.yaml:3: ", "but got 'float23'", "did you mean 'float32'?");
  EXPECT_ERROR(bound("autocast:\n  modules:\n    '0(': float32"), UsageError,
               "[config] x.yaml:3: ", "a path must be one or a regular expression");
  EXPECT_ERROR(bound("{autocast: {modules: {'0': none}}}"), UsageError, "but got 'none'");
}

TEST(PolicySettings, SaveAndLoad) {
  auto policy = OpPolicy::mmcv();
  policy.set("softmax", CastRule::float32).set("mm", CastRule::float32).remove("bmm");
  policy.set("conv1d.default", CastRule::keep).set("mm", CastRule::promote);
  const auto yaml = policy_to_yaml(policy);
  EXPECT_EQ(yaml,
            "{policy: mmcv, ops: {\"softmax\": float32, \"bmm\": none, \"conv1d.default\": keep, "
            "\"mm\": promote}}");
  const auto again = read_policy("autocast: " + yaml);
  EXPECT_EQ(again->rules(), policy.rules());
  EXPECT_EQ(policy_to_yaml(*again), yaml);

  policy.module("head.*", CastRule::float32).module("it's\\.\\d", CastRule::keep);
  const auto with_modules = policy_to_yaml(policy);
  EXPECT_THAT(with_modules,
              ::testing::HasSubstr(", modules: {'head.*': float32, 'it''s\\.\\d': keep}}"));
  EXPECT_EQ(read_policy("autocast: " + with_modules)->module_rules(), policy.module_rules());

  // Set again by a rule that some overloads can't follow, which keep the first.
  OpPolicy twice;
  twice.set("norm", CastRule::float32).set("norm", CastRule::float32_append_dtype);
  ASSERT_EQ(twice.rule("norm.Scalar"), CastRule::float32_append_dtype);
  ASSERT_EQ(twice.rule("norm.ScalarOpt_dtype"), CastRule::float32);
  EXPECT_EQ(read_policy("autocast: " + policy_to_yaml(twice))->rules(), twice.rules());

  const OpPolicy none;
  EXPECT_EQ(read_policy("autocast: " + policy_to_yaml(none))->rules(), none.rules());
  auto merged = OpPolicy();
  merged.merge(OpPolicy::torch(c10::kCUDA));
  EXPECT_EQ(read_policy("autocast: " + policy_to_yaml(merged))->rules(), merged.rules());
}

TEST(PolicySettings, ArePartOfTheAmpSettings) {
  auto config = Config::parse("{type: AmpOptimWrapper, autocast: {ops: {softmax: float32}}}");
  const auto amp = AmpSettings::read(config, c10::kCPU);
  config.finish();
  ASSERT_TRUE(amp.policy);
  EXPECT_EQ(amp.policy->rule("softmax.int"), CastRule::float32);
  EXPECT_EQ(amp.describe_dtype(), "bfloat16 (autocast, op policy torch(cpu) with 1 change)");
  EXPECT_THAT(config.resolved(), ::testing::HasSubstr("softmax: float32"));
  // A config serves both modes.
  auto plain = Config::parse("{type: OptimWrapper, autocast: {ops: {softmax: float32}}}");
  EXPECT_FALSE(AmpSettings::read(plain, c10::kCPU).policy);
  plain.finish();
}

}  // namespace halfstep::train
