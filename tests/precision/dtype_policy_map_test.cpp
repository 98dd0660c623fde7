// The ports of Keras' dtype_policy_map_test.py, by name. Quantized policies are left out.
#include "halfstep/precision/dtype_policy_map.h"

#include "halfstep/autocast/autocast.h"
#include "halfstep/core/error.h"
#include "halfstep/precision/policy_names.h"

#include <sstream>

#include <torch/torch.h>

#include "tests/support/errors.h"

namespace halfstep {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

/// Puts the global policy back after each test.
class KerasPolicyMap : public ::testing::Test {
 protected:
  void TearDown() override { set_dtype_policy(before_); }

 private:
  DtypePolicy before_ = dtype_policy();
};

namespace {
DtypePolicyMap two_layers() {
  return DtypePolicyMap().add("layer/dense_0", "bfloat16").add("layer/dense_1", "mixed_bfloat16");
}
}  // namespace

// A model whose layers compute in dtypes of their own.
TEST_F(KerasPolicyMap, BasicUsage) {
  torch::nn::Linear dense(4, 8);
  torch::nn::BatchNorm1d norm(8);
  torch::nn::ModuleList net(dense, norm, torch::nn::ReLU());
  const auto policies =
      DtypePolicyMap("mixed_bfloat16").add("0", "float32").add("1", "mixed_bfloat16");
  const auto policy = policies.applied_to(OpPolicy::torch(torch::kCPU)).bind(*net);
  const auto x = torch::randn({16, 4});
  const Autocast autocast(policies.default_policy().autocast(torch::kCPU).policy(policy));
  const auto hidden = dense->forward(x);
  EXPECT_EQ(hidden.scalar_type(), torch::kFloat);
  EXPECT_EQ(norm->forward(hidden).scalar_type(), torch::kBFloat16);
  EXPECT_TRUE(policy.unmatched_modules().empty());
  EXPECT_EQ(at::mm(x, x.t()).scalar_type(), torch::kBFloat16) << "the region's own matter";
}

TEST_F(KerasPolicyMap, ARegionHasOneDtype) {
  const auto policies = DtypePolicyMap().add("a", "mixed_float16").add("b", "bfloat16");
  EXPECT_ERROR(policies.applied_to(OpPolicy()), UsageError,
               "[DtypePolicyMap] the keys must compute in one 16-bit dtype",
               "'a' computes in float16 and 'b' in bfloat16");
  const auto wide = DtypePolicyMap().add("a", "float64");
  EXPECT_ERROR(wide.applied_to(OpPolicy()), UsageError, "[DtypePolicyMap] a rule by module",
               "'a' computes in float64; put a PolicyLayer");
}

TEST_F(KerasPolicyMap, Add) {
  auto map = two_layers();
  map.add("layer/dense_2", "mixed_float16");
  EXPECT_EQ(map.size(), 3);
  EXPECT_EQ(map["layer/dense_0"].name(), "bfloat16");
  EXPECT_EQ(map["layer/dense_1"].name(), "mixed_bfloat16");
  EXPECT_EQ(map["layer/dense_2"].name(), "mixed_float16");
  EXPECT_ERROR(map.add("layer/dense_0", "float32"), UsageError,
               "[DtypePolicyMap] a key must be added once, but got 'layer/dense_0'",
               "with bfloat16");
  EXPECT_ERROR(map.add("layer/dense_3", "123"), UsageError, "[DtypePolicy]", "but got '123'");
  EXPECT_EQ(map.size(), 3);
}

TEST_F(KerasPolicyMap, Get) {
  DtypePolicyMap map;
  map.add("model/encoder/layer_0/dense", "bfloat16");
  map.add("model/encoder/attention/query", "mixed_bfloat16");
  map.add("model/decoder/.*", "float32");
  map.add("model/decoder/attention/.*", "float16");
  EXPECT_EQ(map["model/encoder/layer_0/dense"], "bfloat16");
  EXPECT_EQ(map["model/encoder/attention/query"], "mixed_bfloat16");
  EXPECT_EQ(map["model/decoder/layer_0"], "float32");
  // A part of a path is no match.
  set_dtype_policy("float64");
  EXPECT_EQ(map["model/encoder/attention/query_norm"], "float64");
  EXPECT_EQ(map["the model/decoder/layer_0"], "float64");
  map.add("model/decoder", "bfloat16");
  EXPECT_EQ(map["model/decoder/layer_0"], "float32");
  EXPECT_EQ(map["model/decoder"], "bfloat16");
  EXPECT_EQ(map["model/embedding"], map.default_policy());
  EXPECT_ERROR(map["model/decoder/attention/output"], UsageError,
               "[DtypePolicyMap] a path must match one pattern, but "
               "'model/decoder/attention/output' matches 'model/decoder/.*' and "
               "'model/decoder/attention/.*'");
  map.add("model/decoder/attention/output", "bfloat16");
  EXPECT_EQ(map["model/decoder/attention/output"], "bfloat16") << "the exact path first";
}

TEST_F(KerasPolicyMap, Delete) {
  auto map = two_layers();
  EXPECT_EQ(map.pop("layer/dense_0"), "bfloat16");
  EXPECT_ERROR(map.pop("layer/dense_0"), UsageError, "a key must be there to be taken",
               "'layer/dense_0'");
  map.pop("layer/dense_1");
  EXPECT_EQ(map["layer/dense_1"], map.default_policy());
  EXPECT_TRUE(map.empty());
}

TEST_F(KerasPolicyMap, Len) {
  EXPECT_EQ(DtypePolicyMap().size(), 0);
  EXPECT_EQ(two_layers().size(), 2);
}

TEST_F(KerasPolicyMap, Iter) {
  const auto map = two_layers();
  EXPECT_THAT(map, ElementsAre(Pair("layer/dense_0", DtypePolicy("bfloat16")),
                               Pair("layer/dense_1", DtypePolicy("mixed_bfloat16"))));
}

TEST_F(KerasPolicyMap, In) {
  auto map = two_layers();
  map.add("layer/.*", "float16");
  EXPECT_TRUE(map.contains("layer/dense_0"));
  EXPECT_TRUE(map.contains("layer/.*"));
  EXPECT_FALSE(map.contains("layer/dense_2")) << "keys, not what they match";
}

TEST_F(KerasPolicyMap, DefaultPolicy) {
  DtypePolicyMap own("mixed_bfloat16", {{"layer/dense_0", "float16"}});
  const auto loaded = DtypePolicyMap::from_names(own.names());
  EXPECT_EQ(loaded["layer/dense_0"], "float16");
  EXPECT_EQ(loaded["layer/dense_2"], "mixed_bfloat16");
  EXPECT_EQ(loaded.compute_dtype(), torch::kBFloat16);
  EXPECT_EQ(loaded.variable_dtype(), torch::kFloat);
  EXPECT_EQ(loaded.name(), "map_mixed_bfloat16");

  // Without one it is the process's, when asked.
  auto names = two_layers().names();
  EXPECT_EQ(names.default_policy, std::nullopt);
  const auto deferring = DtypePolicyMap::from_names(names);
  set_dtype_policy("bfloat16");
  EXPECT_EQ(deferring["layer/dense_2"], "bfloat16");
  EXPECT_EQ(deferring["layer/dense_1"], "mixed_bfloat16") << "kept, unlike Keras'";
}

TEST_F(KerasPolicyMap, Serialization) {
  DtypePolicyMap map("mixed_bfloat16", {{"a", "float32"}, {".*b", get_policy("c=f16,o=f32")}});
  const auto names = map.names();
  EXPECT_THAT(names.policies,
              ElementsAre(Pair("a", "float32"), Pair(".*b", "p=full,c=f16,o=full")));
  const auto again = DtypePolicyMap::from_names(names);
  EXPECT_EQ(again.names(), names);
  EXPECT_EQ(again.default_policy(), map.default_policy());
  EXPECT_THAT(again, ::testing::ElementsAreArray(map.begin(), map.end()));
}

TEST_F(KerasPolicyMap, Repr) {
  std::ostringstream text;
  text << DtypePolicyMap("float32", {{"layer/dense_0", "mixed_bfloat16"}});
  EXPECT_EQ(text.str(),
            "DtypePolicyMap(default_policy=float32, mapping=[('layer/dense_0', "
            "'mixed_bfloat16')])");
}

TEST_F(KerasPolicyMap, InvalidPolicyMap) {
  static_assert(!std::is_constructible_v<DtypePolicyMap, DtypePolicy, int>);
  static_assert(!std::is_constructible_v<DtypePolicyMap, DtypePolicyMap, DtypePolicyMap>);
  EXPECT_ERROR(DtypePolicyMap("float32", {{"a", "float32"}, {"a", "float32"}}), UsageError,
               "a key must be added once");
  EXPECT_ERROR(DtypePolicyMap().add("a(", "float32"), UsageError,
               "[DtypePolicyMap] a path must be one or a regular expression, but got 'a('");
  EXPECT_ERROR(DtypePolicyMap::from_names({"float31", {}}), UsageError, "but got 'float31'");
}

}  // namespace halfstep
