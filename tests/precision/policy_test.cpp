// The ports of the policy tests of Keras (dtype_policy_test.py) and jmp (policy_test.py), by name.
#include "halfstep/core/dtype.h"
#include "halfstep/core/error.h"
#include "halfstep/precision/dtype_policy.h"
#include "halfstep/precision/policy_names.h"

#include <map>
#include <sstream>
#include <thread>

#include <c10/core/DefaultDtype.h>
#include <torch/types.h>

#include "tests/support/errors.h"

namespace halfstep::testing {

constexpr auto f32 = torch::kFloat, f16 = torch::kHalf, bf16 = torch::kBFloat16,
               f64 = torch::kDouble;

/// Before any test could set one.
const DtypePolicy global_at_start;

/// Puts the global policy back after each test.
class GlobalPolicy : public ::testing::Test {
 protected:
  void TearDown() override { set_dtype_policy(before_); }

 private:
  DtypePolicy before_ = dtype_policy();
};

using KerasPolicy = GlobalPolicy;

TEST_F(KerasPolicy, MixedNames) {
  const DtypePolicy half("mixed_float16");
  EXPECT_EQ(half.compute_dtype(), f16);
  EXPECT_EQ(half.variable_dtype(), f32);
  EXPECT_EQ(half.name(), "mixed_float16");
  const DtypePolicy bfloat("mixed_bfloat16");
  EXPECT_EQ(bfloat.compute_dtype(), bf16);
  EXPECT_EQ(bfloat.variable_dtype(), f32);
  EXPECT_EQ(bfloat.name(), "mixed_bfloat16");
  EXPECT_EQ(bfloat.output_dtype(), bf16) << "layers of Keras give what they compute";
}

TEST_F(KerasPolicy, DtypeNames) {
  for (const auto dtype : {f32, f16, bf16, f64}) {
    const DtypePolicy policy(dtype_name(dtype));
    EXPECT_EQ(policy, DtypePolicy(dtype, dtype, dtype));
    EXPECT_EQ(policy.name(), dtype_name(dtype));
  }
}

TEST_F(KerasPolicy, InitializationFromGlobal) {
  for (const char* name : {"float32", "float16", "bfloat16", "mixed_float16", "mixed_bfloat16"}) {
    set_dtype_policy(name);
    const DtypePolicy policy;
    EXPECT_EQ(policy.name(), name);
    EXPECT_EQ(policy, DtypePolicy(name));
  }
}

TEST_F(KerasPolicy, InvalidNames) {
  const std::string nonsense = "mixed_float16mixed_float16mixed_float16";
  for (const std::string& name :
       {std::string("invalid_name"), std::string(""), std::string("@mixed_float16!"), nonsense,
        std::string("mixed_float15"), std::string("uint8")}) {
    const auto got = "but got '" + name + "'";
    EXPECT_ERROR(DtypePolicy{name}, UsageError, "[DtypePolicy]", "mixed_float16, mixed_bfloat16",
                 got.c_str());
  }
  static_assert(!std::is_constructible_v<DtypePolicy, int>);
  static_assert(!std::is_constructible_v<DtypePolicy, std::nullptr_t>);
}

TEST_F(KerasPolicy, NameMakesThePolicyAgain) {
  for (const char* name : {"mixed_float16", "mixed_bfloat16", "float64"})
    EXPECT_EQ(DtypePolicy(DtypePolicy(name).name()), DtypePolicy(name));
  EXPECT_EQ(get_policy(DtypePolicy(f32, f16, f64).name()), DtypePolicy(f32, f16, f64))
      << "no name of Keras's";
}

TEST_F(KerasPolicy, Equality) {
  const DtypePolicy policy("mixed_bfloat16");
  EXPECT_EQ(policy, "mixed_bfloat16");
  EXPECT_NE(policy, "mixed_float16");
  EXPECT_NE(policy, policy.with_output_dtype(f32));
}

TEST_F(KerasPolicy, SetGlobal) {
  set_dtype_policy("mixed_float16");
  EXPECT_EQ(dtype_policy().name(), "mixed_float16");
  set_dtype_policy(DtypePolicy("float32"));
  EXPECT_EQ(dtype_policy().name(), "float32");
}

TEST_F(KerasPolicy, DefaultIsTorchsDefaultDtype) {
  EXPECT_EQ(global_at_start.name(), "float32");
}

TEST_F(KerasPolicy, GlobalIsOfTheProcess) {
  set_dtype_policy("mixed_float16");
  std::string name;
  std::thread([&] { name = DtypePolicy().name(); }).join();
  EXPECT_EQ(name, "mixed_float16");
}

TEST(Policy, RefusesIntegers) {
  EXPECT_ERROR(DtypePolicy(f32, torch::kInt, f32), UsageError, "[DtypePolicy]",
               "compute_dtype must be float32", "but got int32");
}

TEST(Policy, RegionIsOfTheComputeDtype) {
  const auto options = DtypePolicy("mixed_float16").autocast(torch::kCPU);
  EXPECT_TRUE(options.enabled());
  EXPECT_EQ(options.dtype(), f16);
  EXPECT_FALSE(DtypePolicy("float16").autocast(torch::kCPU).enabled());
  EXPECT_ERROR(get_policy("p=f16,c=f32").autocast(torch::kCPU), UsageError, "p=f16,c=full,o=full");
  EXPECT_ERROR(get_policy("p=f64,c=f16").autocast(torch::kCPU), UsageError, "p=f64,c=f16,o=f16");
}

TEST(Policy, ScaleIsForMixedFloat16) {
  EXPECT_TRUE(DtypePolicy("mixed_float16").needs_loss_scale());
  EXPECT_TRUE(fabric_policy("16-mixed").needs_loss_scale());
  for (const char* name : {"mixed_bfloat16", "float16", "float32"})
    EXPECT_FALSE(DtypePolicy(name).needs_loss_scale()) << name;
}

class JmpPolicy : public ::testing::TestWithParam<c10::ScalarType> {
 protected:
  const c10::ScalarType dtype = GetParam();
  const DtypePolicy policy{dtype, dtype, dtype};
  const std::map<std::string, at::Tensor> tree{{"a", torch::ones({}, f64)},
                                               {"i", torch::ones({}, torch::kInt)}};

  void expect_cast(const std::map<std::string, at::Tensor>& cast) const {
    EXPECT_EQ(cast.at("a").scalar_type(), dtype);
    EXPECT_EQ(cast.at("a").item<double>(), 1);
    EXPECT_EQ(cast.at("i").scalar_type(), torch::kInt);
  }
};
INSTANTIATE_TEST_SUITE_P(Of, JmpPolicy, ::testing::Values(f16, bf16, f32),
                         [](const auto& each) { return dtype_name(each.param); });

TEST_P(JmpPolicy, CastToParam) {
  expect_cast(policy.cast_to_param(tree));
}
TEST_P(JmpPolicy, CastToCompute) {
  expect_cast(policy.cast_to_compute(tree));
}
TEST_P(JmpPolicy, CastToOutput) {
  expect_cast(policy.cast_to_output(tree));
}

TEST_P(JmpPolicy, EachCastHasItsDtype) {
  const DtypePolicy three(f64, dtype, f32);
  EXPECT_EQ(three.cast_to_param(tree).at("a").scalar_type(), f64);
  EXPECT_EQ(three.cast_to_compute(tree).at("a").scalar_type(), dtype);
  EXPECT_EQ(three.cast_to_output(tree).at("a").scalar_type(), f32);
}

TEST_P(JmpPolicy, WithOutputDtype) {
  EXPECT_EQ(DtypePolicy("float32").with_output_dtype(dtype), DtypePolicy(f32, f32, dtype));
}

TEST_P(JmpPolicy, GetPolicy) {
  EXPECT_EQ(get_policy(dtype_name(dtype)), policy);
}
TEST_P(JmpPolicy, GetPolicyMixed) {
  EXPECT_EQ(get_policy("c=" + dtype_name(dtype)), DtypePolicy(f32, dtype, dtype));
}
TEST_P(JmpPolicy, GetPolicyCompute) {
  EXPECT_EQ(get_policy("c=" + dtype_name(dtype) + ",o=full"), DtypePolicy(f32, dtype, f32));
}

TEST_P(JmpPolicy, Str) {
  const std::map<c10::ScalarType, std::string> names{{f16, "f16"}, {bf16, "bf16"}, {f32, "full"}};
  const auto& name = names.at(dtype);
  std::ostringstream printed;
  printed << policy;
  EXPECT_EQ(printed.str(), "p=" + name + ",c=" + name + ",o=" + name);
  EXPECT_EQ(get_policy(policy.str()), policy);
}

TEST(JmpPolicyNames, LongKeysAndEveryName) {
  EXPECT_EQ(get_policy("params=float32,compute=float16,output=float32"),
            DtypePolicy(f32, f16, f32));
  EXPECT_EQ(get_policy("o=f64,p=bf16"), DtypePolicy(bf16, bf16, f64)) << "compute follows params";
  const std::vector<std::pair<const char*, c10::ScalarType>> names{
      {"full", f32},    {"f32", f32},   {"float32", f32},   {"half", f16}, {"f16", f16},
      {"float16", f16}, {"bf16", bf16}, {"bfloat16", bf16}, {"f64", f64},  {"float64", f64}};
  for (const auto& [name, dtype] : names)
    EXPECT_EQ(get_policy(name), DtypePolicy(dtype, dtype, dtype)) << name;
}

TEST(JmpPolicyNames, AlmostADtype) {
  EXPECT_ERROR(get_policy("compute_float16"), UsageError, "[get_policy]", "a dtype must be",
               "but got 'compute_float16'");
  EXPECT_ERROR(get_policy(""), UsageError, "a dtype must be", "but got ''");
  EXPECT_ERROR(get_policy("p=f32,c=f15"), UsageError, "but got 'f15'");
  EXPECT_ERROR(get_policy("p=f32,d=f16"), UsageError, "a key must be params, compute or output",
               "but got 'd' in 'p=f32,d=f16'");
  EXPECT_ERROR(get_policy("p=f32,,c=f16"), UsageError, "a key must be", "but got ''");
  EXPECT_ERROR(get_policy("p=f32,"), UsageError, "a key must be", "but got ''");
  EXPECT_ERROR(get_policy("p=f32,params=f16"), UsageError, "given once", "'params' again");
}

TEST(JmpPolicyNames, CastToFullAndHalf) {
  struct Own {
    int number;
    bool operator==(const Own&) const = default;
  };
  const auto half = torch::ones({}, f16), full = torch::ones({}, f32),
             integer = torch::ones({}, torch::kShort);
  const std::tuple tree{Own{7}, half, full, integer};
  const auto [own_in_full, half_in_full, full_in_full, integer_in_full] = cast_to_full(tree);
  EXPECT_EQ(own_in_full, Own{7});
  EXPECT_EQ(half_in_full.scalar_type(), f32);
  EXPECT_TRUE(full_in_full.is_same(full));
  EXPECT_TRUE(integer_in_full.is_same(integer));
  const auto [own_in_half, half_in_half, full_in_half, integer_in_half] = cast_to_half(tree);
  EXPECT_EQ(own_in_half, Own{7});
  EXPECT_TRUE(half_in_half.is_same(half));
  EXPECT_EQ(full_in_half.scalar_type(), f16);
  EXPECT_TRUE(integer_in_half.is_same(integer));
}

TEST(FabricPolicy, Names) {
  EXPECT_EQ(fabric_policy("16-mixed"), DtypePolicy(f32, f16, f32));
  EXPECT_EQ(fabric_policy("bf16-mixed"), DtypePolicy(f32, bf16, f32));
  EXPECT_EQ(fabric_policy("16-true"), DtypePolicy(f16, f16, f32));
  EXPECT_EQ(fabric_policy("bf16-true"), DtypePolicy(bf16, bf16, f32));
  EXPECT_EQ(fabric_policy("32-true"), DtypePolicy(f32, f32, f32));
  EXPECT_EQ(fabric_policy("64-true"), DtypePolicy(f64, f64, f32));
  EXPECT_EQ(fabric_policy("16"), fabric_policy("16-mixed"));
  EXPECT_EQ(fabric_policy("bf16"), fabric_policy("bf16-mixed"));
  EXPECT_EQ(fabric_policy("32"), fabric_policy("32-true"));
  EXPECT_EQ(fabric_policy("64"), fabric_policy("64-true"));
}

TEST(FabricPolicy, OutputsAreInTheDefaultDtype) {
  const auto before = c10::get_default_dtype();
  c10::set_default_dtype(caffe2::TypeMeta::fromScalarType(f64));
  const auto policy = fabric_policy("bf16-true");
  c10::set_default_dtype(before);
  EXPECT_EQ(policy, DtypePolicy(bf16, bf16, f64));
}

TEST(FabricPolicy, RefusesOtherNames) {
  EXPECT_ERROR(fabric_policy("8-mixed"), UsageError, "[fabric_policy]", "16-mixed, bf16-mixed",
               "but got '8-mixed'");
  EXPECT_ERROR(fabric_policy("transformer-engine-float16"), UsageError,
               "Transformer Engine has no counterpart");
}

TEST(PolicyNames, ErrorsKnowTheOtherVocabularies) {
  EXPECT_ERROR(get_policy("mixed_float16"), UsageError, "DtypePolicy(\"mixed_float16\")");
  EXPECT_ERROR(get_policy("16-mixed"), UsageError, "fabric_policy(\"16-mixed\")");
  EXPECT_ERROR(DtypePolicy("p=f32,c=f16"), UsageError, "get_policy(\"p=f32,c=f16\")");
  EXPECT_ERROR(fabric_policy("mixed_bfloat16"), UsageError, "DtypePolicy(\"mixed_bfloat16\")");
  EXPECT_ERROR(fabric_policy("f16"), UsageError, "get_policy(\"f16\")");
}

}  // namespace halfstep::testing
