#include "halfstep/autocast/stock_rules.h"

#include "halfstep/autocast/op_policy.h"

#include <ATen/autocast_mode.h>

#include "tests/autocast/op_expectations.h"

namespace halfstep {

using testing::Policy;

namespace {

CastRule rule_of(Policy policy) {
  switch (policy) {
    case Policy::lower:
      return CastRule::lower_precision;
    case Policy::fp32:
      return CastRule::float32;
    case Policy::promote:
      return CastRule::promote;
    case Policy::set_dtype:
      return CastRule::float32_set_dtype;
    case Policy::append_dtype:
      return CastRule::float32_append_dtype;
    case Policy::banned:
      return CastRule::banned;
    case Policy::none:
      break;
  }
  return CastRule::keep;
}

}  // namespace

class StockRules : public ::testing::TestWithParam<c10::DeviceType> {};
INSTANTIATE_TEST_SUITE_P(Of, StockRules, ::testing::Values(torch::kCPU, torch::kCUDA),
                         testing::device_param_name);

// The cases' rules are written down from PyTorch's documentation and sources and checked by calls
// (op_lists_test.cpp), so this fails where what the kernels are seen to do is not what they do.
TEST_P(StockRules, AreThoseOfTheCases) {
  const auto& rules = detail::stock_rules(GetParam());
  int compared = 0;
  for (const auto& op : testing::op_cases()) {
    const auto expected = op.policy(GetParam());
    if (expected == Policy::none || testing::not_in_old_lists().count(op.op)) continue;
    ASSERT_TRUE(rules.contains(op.op)) << op.op;
    EXPECT_EQ(rules.at(op.op).rule, rule_of(expected)) << op.op;
    ++compared;
  }
  EXPECT_GT(compared, 110);
}

TEST_P(StockRules, AreThePresetTorch) {
  const auto policy = OpPolicy::torch(GetParam());
  auto rules = detail::stock_rules(GetParam());
  // What CUDA's list has for CPU regions.
  if (GetParam() == torch::kCUDA) {
    EXPECT_TRUE(rules.try_emplace("mkldnn_rnn_layer", CastRule::lower_precision).second);
  }
  EXPECT_EQ(policy.rules().size(), rules.size());
  for (const auto& [op, rule] : policy.rules()) EXPECT_EQ(rule, rules.at(op).rule) << op;
  EXPECT_EQ(policy.base(), GetParam() == torch::kCUDA ? "torch(cuda)" : "torch(cpu)");
}

// What only LibTorch 2.11 lists.
TEST(StockRulesOfOldVersions, OfNamedDimensions) {
  if (!testing::old_lists) GTEST_SKIP() << "LibTorch " << TORCH_VERSION << " has none";
  EXPECT_EQ(detail::stock_rules(torch::kCPU).at("index_copy.dimname").rule, CastRule::promote);
  EXPECT_EQ(detail::stock_rules(torch::kCUDA).at("softmax.Dimname").rule,
            CastRule::float32_set_dtype);
  EXPECT_EQ(detail::stock_rules(torch::kCUDA).at("norm.names_ScalarOpt_dim").rule,
            CastRule::float32_append_dtype);
}

TEST(StockRulesOfOtherDevices, AreReadToo) {
  EXPECT_EQ(detail::stock_rules(torch::kXPU).at("mm").rule, CastRule::lower_precision);
  EXPECT_EQ(detail::stock_rules(torch::kXPU).at("softmax.int").rule, CastRule::float32_set_dtype);
  EXPECT_TRUE(detail::stock_rules(torch::kIPU).empty());
}

// Reading them changes nothing: not the thread's dtype, and no kernel is left behind.
TEST(StockRulesReading, LeavesNothingBehind) {
  const auto dtype = at::autocast::get_autocast_dtype(torch::kMPS);
  EXPECT_GT(detail::stock_rules(torch::kMPS).size(), 50);
  EXPECT_EQ(at::autocast::get_autocast_dtype(torch::kMPS), dtype);
  const c10::impl::IncludeDispatchKeyGuard trapping(c10::DispatchKey::TESTING_ONLY_GenericMode);
  EXPECT_ANY_THROW(at::ones({2})) << "the key has no kernels";
}

}  // namespace halfstep
