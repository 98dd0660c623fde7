#include "halfstep/autocast/op_policy.h"

#include "halfstep/autocast/op_names.h"
#include "halfstep/core/error.h"

#include <sstream>

#include <torch/library.h>

#include "tests/support/errors.h"

namespace halfstep {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

TEST(OpPolicy, BeginsWithoutRules) {
  const OpPolicy policy;
  EXPECT_TRUE(policy.rules().empty());
  EXPECT_EQ(policy.base(), "none");
  EXPECT_EQ(policy.rule("mm"), std::nullopt);
}

TEST(OpPolicy, SetsMergesAndRemoves) {
  auto policy = OpPolicy::torch(torch::kCPU);
  EXPECT_EQ(policy.rule("softmax.int"), std::nullopt);
  policy.set("softmax", CastRule::float32).set("mm", CastRule::keep).remove("bmm");
  EXPECT_EQ(policy.rule("softmax.int"), CastRule::float32);
  EXPECT_EQ(policy.rule("mm"), CastRule::keep);
  EXPECT_EQ(policy.rule("bmm"), std::nullopt);
  EXPECT_THAT(policy.changes(),
              ElementsAre(Pair("softmax", std::optional(CastRule::float32)),
                          Pair("mm", std::optional(CastRule::keep)), Pair("bmm", std::nullopt)));

  OpPolicy other;
  other.set("mm", CastRule::float32).set("relu", CastRule::lower_precision);
  policy.merge(other);
  EXPECT_EQ(policy.rule("mm"), CastRule::float32) << "the merged one wins";
  EXPECT_EQ(policy.rule("relu"), CastRule::lower_precision);
  EXPECT_EQ(policy.rule("softmax.int"), CastRule::float32);
  EXPECT_EQ(policy.base(), "torch(cpu)");

  // The changes say it all.
  auto again = OpPolicy::torch(torch::kCPU);
  for (const auto& [op, rule] : policy.changes()) {
    if (rule)
      again.set(op, *rule);
    else
      again.remove(op);
  }
  EXPECT_EQ(again.rules(), policy.rules());
}

TEST(OpPolicy, IsAValue) {
  const auto before = OpPolicy::torch(torch::kCPU);
  auto after = before;
  after.set("mm", CastRule::float32);
  EXPECT_EQ(before.rule("mm"), CastRule::lower_precision);
  EXPECT_EQ(after.rule("mm"), CastRule::float32);
  EXPECT_TRUE(before.changes().empty());
}

TEST(OpPolicy, NamesAnOpWithItsOverloadsOrOne) {
  OpPolicy all;
  all.set("conv2d", CastRule::float32);
  EXPECT_THAT(all.rules(), ElementsAre(Pair("conv2d", CastRule::float32),
                                       Pair("conv2d.padding", CastRule::float32)));
  OpPolicy one;
  one.set("conv2d.default", CastRule::float32).set("aten::sum.dim_IntList", CastRule::keep);
  EXPECT_THAT(one.rules(), ElementsAre(Pair("conv2d", CastRule::float32),
                                       Pair("sum.dim_IntList", CastRule::keep)));
}

TEST(OpPolicy, FamiliesAreEveryEntryOp) {
  OpPolicy linear;
  linear.set("linear", CastRule::float32);
  for (const auto* op : {"linear", "addmm", "matmul", "_addmm_activation"})
    EXPECT_EQ(linear.rule(op), CastRule::float32) << op;
  OpPolicy matmul;
  matmul.set("matmul", CastRule::float32);
  for (const auto* op : {"matmul", "mm", "bmm", "mv", "addmm", "baddbmm", "linear", "einsum"})
    EXPECT_EQ(matmul.rule(op), CastRule::float32) << op;
  OpPolicy conv;
  conv.set("conv", CastRule::float32);
  for (const auto* op : {"conv1d", "conv2d.padding", "conv3d", "conv_transpose2d.input",
                         "convolution", "_convolution", "_convolution.deprecated"})
    EXPECT_EQ(conv.rule(op), CastRule::float32) << op;
  // The op alone.
  OpPolicy alone;
  alone.set("linear.default", CastRule::float32);
  EXPECT_EQ(alone.rules().size(), 1);
}

TEST(OpPolicy, RefusesNamesItDoesNotKnow) {
  OpPolicy policy;
  EXPECT_ERROR(policy.set("sofmax", CastRule::float32), UsageError,
               "[OpPolicy] an op must be one that LibTorch has, but got 'sofmax'",
               "did you mean 'softmax'?");
  EXPECT_ERROR(policy.set("softmax.lnt", CastRule::float32), UsageError, "but got 'softmax.lnt'",
               "name one of softmax.", "softmax.int");
  EXPECT_ERROR(policy.remove("mylib::nothing"), UsageError, "'mylib::nothing'");
  EXPECT_ERROR(policy.set("", CastRule::float32), UsageError, "but got ''");
  EXPECT_TRUE(policy.rules().empty());
}

TEST(OpPolicy, RefusesOpsThatWriteTheirArguments) {
  OpPolicy policy;
  for (const auto* op : {"add_", "mm.out", "_foreach_add_"}) {
    EXPECT_ERROR(policy.set(op, CastRule::float32), UsageError,
                 "an op must take tensors and write none of its arguments, but got");
  }
  EXPECT_ERROR(policy.set("zeros", CastRule::float32), UsageError, "an op must take tensors");
  policy.set("mm", CastRule::float32);
  EXPECT_EQ(policy.rule("mm"), CastRule::float32);
  for (const auto& [op, rule] : policy.rules()) EXPECT_EQ(op.find("out"), std::string::npos) << op;
}

TEST(OpPolicy, RefusesRulesAnOpCannotFollow) {
  OpPolicy policy;
  EXPECT_ERROR(policy.set("mm", CastRule::float32_set_dtype), UsageError,
               "an op with rule float32_set_dtype must take an optional dtype, but got 'mm'");
  EXPECT_ERROR(policy.set("softmax", CastRule::float32_append_dtype), UsageError,
               "an op with rule float32_append_dtype must take a dtype in another");
  policy.set("sum", CastRule::float32_set_dtype).set("norm.Scalar", CastRule::float32_append_dtype);
  EXPECT_EQ(policy.rule("sum.dim_IntList"), CastRule::float32_set_dtype);
  EXPECT_EQ(policy.rule("norm.Scalar"), CastRule::float32_append_dtype);
}

TEST(OpPolicy, PrintsAsATable) {
  auto policy = OpPolicy::torch(torch::kCPU);
  policy.set("softmax", CastRule::float32);
  std::ostringstream text;
  text << policy;
  EXPECT_THAT(text.str(), HasSubstr("op policy from torch(cpu): "));
  EXPECT_THAT(text.str(), ::testing::ContainsRegex("  mm +lower_precision\n"));
  EXPECT_THAT(text.str(),
              ::testing::ContainsRegex("  softmax.int +float32  \\(set as softmax\\)\n"));
  const auto table = policy.table();
  EXPECT_EQ(std::count(table.begin(), table.end(), '\n'), policy.rules().size() + 1);
}

TEST(OpPolicy, PresetsByName) {
  for (const auto* name :
       {"torch(cpu)", "torch(cuda)", "safe", "mmcv", "oneflow", "oneflow_graph", "apex", "none"})
    EXPECT_EQ(OpPolicy::preset(name, torch::kCPU).base(), name);
  EXPECT_EQ(OpPolicy::preset("torch", torch::kCPU).base(), "torch(cpu)");
  EXPECT_EQ(OpPolicy::preset("torch", torch::kCUDA).base(), "torch(cuda)");
  EXPECT_ERROR(OpPolicy::preset("oneflwo", torch::kCPU), UsageError,
               "[OpPolicy] a preset must be torch, torch(cpu), torch(cuda), safe, mmcv, oneflow, "
               "oneflow_graph, apex or none, but got 'oneflwo'",
               "did you mean 'oneflow'?");
}

// Some ops of each framework's list (frameworks.md), as literals.
TEST(OpPolicy, PresetsHaveTheirFrameworksRules) {
  const auto safe = OpPolicy::safe();
  for (const auto* op : {"layer_norm", "rms_norm", "batch_norm", "cross_entropy_loss", "exp",
                         "mean", "binary_cross_entropy", "mse_loss", "group_norm"})
    EXPECT_EQ(safe.rule(op), CastRule::float32) << op;
  EXPECT_EQ(safe.rule("softmax.int"), CastRule::float32_set_dtype);
  EXPECT_EQ(safe.rule("sum"), CastRule::float32_set_dtype);
  EXPECT_EQ(safe.rule("conv2d"), CastRule::lower_precision);
  EXPECT_EQ(safe.rule("cat"), CastRule::promote);
  for (const auto& [op, rule] : safe.rules()) EXPECT_NE(rule, CastRule::banned) << op;

  const auto mmcv = OpPolicy::mmcv();
  for (const auto* op : {"addcdiv", "addcmul", "atan2", "bilinear", "cat", "cross", "dot", "equal",
                         "index_put", "stack", "tensordot"})
    EXPECT_EQ(mmcv.rule(op), CastRule::promote_or_lower) << op;
  EXPECT_EQ(mmcv.rule("binary_cross_entropy"), CastRule::float32);
  EXPECT_EQ(mmcv.rule("mm"), CastRule::lower_precision);

  const auto oneflow = OpPolicy::oneflow();
  EXPECT_EQ(oneflow.rule("matmul"), CastRule::lower_precision);
  EXPECT_EQ(oneflow.rule("binary_cross_entropy_with_logits"), CastRule::lower_precision);
  EXPECT_EQ(oneflow.rule("layer_norm"), CastRule::promote);
  EXPECT_EQ(oneflow.rule("add.Tensor"), CastRule::promote);
  EXPECT_EQ(oneflow.rule("softmax.int"), std::nullopt) << "gray with one input";
  EXPECT_EQ(oneflow.rule("exp"), CastRule::float32) << "not listed";
  EXPECT_EQ(oneflow.rule("conv3d"), CastRule::float32) << "not listed";

  const auto graph = OpPolicy::oneflow_graph();
  EXPECT_EQ(graph.rule("addmm"), CastRule::lower_precision);
  EXPECT_EQ(graph.rule("softmax.int"), CastRule::promote);
  EXPECT_EQ(graph.rule("relu"), CastRule::keep);
  EXPECT_EQ(graph.rule("view"), CastRule::keep);
  EXPECT_EQ(graph.rule("view.dtype"), std::nullopt) << "it depends on the bits";
  EXPECT_EQ(graph.rule("sigmoid"), std::nullopt) << "not listed";

  const auto apex = OpPolicy::apex();
  EXPECT_EQ(apex.rule("conv2d"), CastRule::lower_precision);
  EXPECT_EQ(apex.rule("prelu"), CastRule::lower_precision);
  EXPECT_EQ(apex.rule("gelu"), CastRule::float32);
  // interpolate in every mode, and grid_sample.
  for (const auto* op : {"upsample_bilinear2d.vec", "_upsample_nearest_exact2d.vec",
                         "_upsample_bicubic2d_aa.vec", "grid_sampler"})
    EXPECT_EQ(apex.rule(op), CastRule::float32) << op;
  EXPECT_EQ(apex.rule("layer_norm"), CastRule::float32);
  EXPECT_EQ(apex.rule("mul.Tensor"), CastRule::promote);
  EXPECT_EQ(apex.rule("cat"), CastRule::promote);
  EXPECT_EQ(apex.rule("binary_cross_entropy"), CastRule::banned);
}

TEST(CastRuleNames, RoundTrip) {
  EXPECT_EQ(cast_rules().size(), 8);
  for (const auto rule : cast_rules()) EXPECT_EQ(parse_cast_rule(cast_rule_name(rule)), rule);
  EXPECT_ERROR(parse_cast_rule("float23"), UsageError,
               "[CastRule] a rule must be one of lower_precision, float32,", "but got 'float23'",
               "did you mean 'float32'?");
}

}  // namespace halfstep
