// What names rules by module take, and refuse.
#include "halfstep/autocast/autocast.h"
#include "halfstep/autocast/module_scope.h"
#include "halfstep/core/error.h"

#include <memory>

#include <torch/torch.h>

#include "tests/support/errors.h"

namespace halfstep {

using ::testing::ElementsAre;
using ::testing::Pair;

namespace {

struct NetImpl : torch::nn::Module {
  torch::nn::Sequential body{
      register_module("body", torch::nn::Sequential(torch::nn::Linear(6, 6), torch::nn::ReLU()))};
  torch::nn::Linear head{register_module("head", torch::nn::Linear(6, 3))};
  torch::nn::Linear header{register_module("header", torch::nn::Linear(6, 3))};
};
TORCH_MODULE(Net);

}  // namespace

TEST(ModuleRuleNames, AreAValue) {
  const Net net;
  auto policy = OpPolicy::torch(torch::kCPU);
  const auto before = policy;
  policy.module("head", CastRule::float32).module("body", CastRule::keep).bind(*net);
  policy.module("head", CastRule::promote);
  EXPECT_TRUE(before.module_rules().empty());
  EXPECT_THAT(policy.module_rules(),
              ElementsAre(Pair("body", CastRule::keep), Pair("head", CastRule::promote)));
  EXPECT_THAT(policy.table(), ::testing::HasSubstr("module head  promote"));
  OpPolicy merged;
  merged.module("head", CastRule::float32).merge(policy);
  EXPECT_EQ(merged.module_rules(), policy.module_rules());
  EXPECT_THAT(merged.unmatched_modules(), ElementsAre("body", "head"));
}

TEST(ModuleRuleNames, MustBeOfTheTree) {
  const Net net;
  OpPolicy policy;
  policy.bind(*net);
  EXPECT_ERROR(policy.module("haed", CastRule::float32), UsageError,
               "[OpPolicy] a module must be one of the tree's, but got 'haed'",
               "did you mean 'head'?");
  EXPECT_ERROR(policy.module("haed.*", CastRule::float32), UsageError, "but got 'haed.*'",
               "did you mean 'head'?");
  EXPECT_ERROR(policy.module("body\\.[", CastRule::float32), UsageError,
               "a path must be one or a regular expression, but got 'body\\.['");
  EXPECT_TRUE(policy.module_rules().empty()) << "an error changes nothing";
  OpPolicy late;
  late.module("haed", CastRule::float32);
  EXPECT_ERROR(late.bind(*net), UsageError, "but got 'haed'", "did you mean 'head'?");
  OpPolicy target;
  target.bind(*net);
  EXPECT_ERROR(target.merge(late), UsageError, "but got 'haed'");
  EXPECT_TRUE(target.module_rules().empty());
}

TEST(ModuleRuleNames, MayNotBeAmbiguous) {
  const Net net;
  OpPolicy policy;
  policy.module("head.*", CastRule::float32).module(".*er", CastRule::float32);
  EXPECT_ERROR(
      policy.bind(*net), UsageError,
      "[OpPolicy] a path must match one pattern, but 'header' matches 'head.*' and '.*er'");
  policy.module("header", CastRule::float32).bind(*net);
}

TEST(ModuleRuleNames, NeedATree) {
  const auto policy = OpPolicy::torch(torch::kCPU).module("head", CastRule::float32);
  EXPECT_ERROR(Autocast(AutocastOptions(torch::kCPU).policy(policy)), UsageError,
               "a policy with rules by module must know the module tree, but 'head'",
               "call bind(*net)");
  EXPECT_EQ(policy.uses().size(), policy.rules().size());
  EXPECT_THAT(policy.unmatched_modules(), ElementsAre("head"));
}

TEST(ModuleRuleNames, RefuseRulesThatOneOpHas) {
  OpPolicy policy;
  for (const auto rule :
       {CastRule::float32_set_dtype, CastRule::float32_append_dtype, CastRule::banned}) {
    const auto got = "but 'head' got " + cast_rule_name(rule);
    EXPECT_ERROR(policy.module("head", rule), UsageError, "a module's rule must be lower_precision",
                 got.c_str());
  }
}

TEST(ModuleRuleNames, OfTiedWeightsMayNotDiffer) {
  torch::nn::ModuleList pair(torch::nn::Linear(3, 3), torch::nn::Linear(3, 3));
  torch::nn::ModuleList tree(pair, pair);
  OpPolicy policy;
  policy.module("0\\..*", CastRule::float32).module("1\\.0", CastRule::lower_precision);
  EXPECT_ERROR(policy.bind(*tree), UsageError, "the modules of a tied weight must have one rule",
               "'0.0' has float32 and '1.0' lower_precision");
}

TEST(ModuleScopes, WithAPathThatIsNoneAreAnErrorOfTheOpInside) {
  const Net net;
  const auto policy = OpPolicy::torch(torch::kCPU).module("head", CastRule::float32).bind(*net);
  const auto x = torch::ones({2, 2});
  const ModuleScope scope("haed");
  at::mm(x, x);
  const Autocast autocast(AutocastOptions(torch::kCPU).policy(policy));
  EXPECT_ERROR(at::mm(x, x), UsageError,
               "[ModuleScope] a path must be one of the module tree's, but got 'haed'",
               "did you mean 'head'?");
}

TEST(ModuleScopeDeathTest, EndsTheProgramWhenAScopeEndsOutOfOrder) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_DEATH(
      {
        auto outer = std::make_unique<ModuleScope>("outer");
        const auto inner = std::make_unique<ModuleScope>("inner");
        outer.reset();
      },
      "\\[ModuleScope\\] a guard must end on the thread that made it");
}

}  // namespace halfstep
