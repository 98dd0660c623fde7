#include "halfstep/autocast/register_autocast.h"

#include "halfstep/autocast/autocast.h"
#include "halfstep/autocast/custom_function.h"
#include "halfstep/core/error.h"

#include <ATen/autocast_mode.h>
#include <torch/library.h>
#include <torch/types.h>

#include "tests/support/devices.h"
#include "tests/support/errors.h"
#include "tests/support/tolerance.h"

namespace halfstep::testing {

namespace {

/// What the ops saw of their first argument.
c10::ScalarType seen = torch::kLong;
bool seen_enabled = false;

at::Tensor product(const at::Tensor& x, const at::Tensor& weight) {
  seen = x.scalar_type();
  seen_enabled = at::autocast::is_autocast_enabled(x.device().type());
  return x.mm(weight);
}

TORCH_LIBRARY(halfstep_own_ops, library) {
  for (const char* name : {"low", "full", "widest", "forbidden", "unregistered", "taken"})
    library.def((std::string(name) + "(Tensor x, Tensor weight) -> Tensor").c_str());
  library.def("writes(Tensor(a!) x) -> Tensor(a!)");
  library.def("total(Tensor x, *, ScalarType? dtype=None) -> Tensor");
  library.def("total.twice(Tensor x, int times) -> Tensor");
}
at::Tensor total(const at::Tensor& x, std::optional<c10::ScalarType> dtype) {
  return x.sum(dtype);
}
at::Tensor total_times(const at::Tensor& x, int64_t times) {
  return x.sum() * times;
}
TORCH_LIBRARY_IMPL(halfstep_own_ops, CompositeImplicitAutograd, library) {
  for (const char* name : {"low", "full", "widest", "forbidden", "unregistered", "taken"})
    library.impl(name, &product);
  library.impl("total", &total);
  library.impl("total.twice", &total_times);
}
TORCH_LIBRARY_IMPL(halfstep_own_ops, AutocastCPU, library) {
  library.impl("taken", &product);
}

at::Tensor call(const char* name, const at::Tensor& x, const at::Tensor& weight) {
  return c10::Dispatcher::singleton()
      .findSchemaOrThrow((std::string("halfstep_own_ops::") + name).c_str(), "")
      .typed<at::Tensor(const at::Tensor&, const at::Tensor&)>()
      .call(x, weight);
}

}  // namespace

class RegisterAutocast : public DeviceTest {
 protected:
  void SetUp() override {
    DeviceTest::SetUp();
    static std::set<c10::DeviceType> registered;
    if (IsSkipped() || !registered.insert(GetParam()).second) return;
    register_autocast("halfstep_own_ops::low", CastRule::lower_precision, GetParam());
    register_autocast("halfstep_own_ops::full", CastRule::float32, GetParam());
    register_autocast("halfstep_own_ops::widest", CastRule::promote, GetParam());
    register_autocast("halfstep_own_ops::forbidden", CastRule::banned, GetParam());
    register_autocast("halfstep_own_ops::total", CastRule::float32_set_dtype, GetParam());
  }
  at::Tensor random(c10::ScalarType dtype = torch::kFloat) const {
    return torch::randn({4, 4}, torch::device(device())).to(dtype);
  }
};
HALFSTEP_ON_EACH_DEVICE(RegisterAutocast);

TEST_P(RegisterAutocast, FollowsItsRuleInRegions) {
  const auto x = random(), weight = random();
  expect_same_bits(call("low", x, weight), x.mm(weight));
  for (const auto dtype : {torch::kHalf, torch::kBFloat16}) {
    const Autocast autocast(AutocastOptions(GetParam()).dtype(dtype));
    expect_same_bits(call("low", x, weight), x.to(dtype).mm(weight.to(dtype)));
    EXPECT_EQ(seen, dtype);
    call("full", x.to(dtype), weight);
    EXPECT_EQ(seen, torch::kFloat);
    call("widest", x.to(dtype), weight);
    EXPECT_EQ(seen, torch::kFloat);
    call("widest", x.to(dtype), weight.to(dtype));
    EXPECT_EQ(seen, dtype);
    EXPECT_ERROR(call("forbidden", x, weight), UsageError, "halfstep_own_ops::forbidden");
    call("unregistered", x, weight);
    EXPECT_EQ(seen, torch::kFloat);
    const auto doubles = random(torch::kDouble);
    expect_same_bits(call("low", doubles, doubles), doubles.mm(doubles));
  }
}

// Of an op's overloads those follow a rule that can.
TEST_P(RegisterAutocast, LeavesOverloadsThatCannotFollowTheRule) {
  auto& dispatcher = c10::Dispatcher::singleton();
  const auto x = random(torch::kBFloat16);
  const Autocast autocast(AutocastOptions(GetParam()).dtype(torch::kBFloat16));
  const auto sum = dispatcher.findSchemaOrThrow("halfstep_own_ops::total", "")
                       .typed<decltype(total)>()
                       .call(x, std::nullopt);
  EXPECT_EQ(sum.scalar_type(), torch::kFloat);
  const auto twice = dispatcher.findSchemaOrThrow("halfstep_own_ops::total", "twice")
                         .typed<decltype(total_times)>()
                         .call(x, 2);
  EXPECT_EQ(twice.scalar_type(), GetParam() == torch::kCUDA ? torch::kFloat : torch::kBFloat16)
      << "as autocast has it for the ops inside";
}

TEST_P(RegisterAutocast, InsideAutocastIsOff) {
  const Autocast autocast(AutocastOptions(GetParam()).dtype(torch::kBFloat16));
  const auto result = call("full", random(), random());
  EXPECT_EQ(result.scalar_type(), torch::kFloat) << "the product inside is not cast";
}

TEST_P(RegisterAutocast, KeepsWeightsCastsAndGivesGradients) {
  const auto x = random(), weight = random().requires_grad_();
  const Autocast autocast(AutocastOptions(GetParam()).dtype(torch::kBFloat16));
  const auto first = call("low", x, weight), second = call("low", x, weight);
  (first.sum() + second.sum()).backward();
  EXPECT_EQ(weight.grad().scalar_type(), torch::kFloat);
  EXPECT_TRUE(weight.grad().ne(0).any().item<bool>());
  const auto cast = at::autocast::cached_cast(torch::kBFloat16, weight, GetParam());
  EXPECT_TRUE(cast.is_same(at::autocast::cached_cast(torch::kBFloat16, weight, GetParam())));
}

TEST_P(RegisterAutocast, APolicyThatNamesTheOpWins) {
  const auto x = random(), weight = random();
  auto policy = OpPolicy::torch(GetParam());
  {
    const Autocast region(AutocastOptions(GetParam()).dtype(torch::kBFloat16).policy(policy));
    call("low", x, weight);
    EXPECT_EQ(seen, torch::kBFloat16) << "its own rule";
  }
  policy.set("halfstep_own_ops::low", CastRule::float32);
  {
    const Autocast region(AutocastOptions(GetParam()).dtype(torch::kBFloat16).policy(policy));
    call("low", x.to(torch::kBFloat16), weight);
    EXPECT_EQ(seen, torch::kFloat);
  }
  const Autocast region(AutocastOptions(GetParam()).dtype(torch::kBFloat16));
  call("low", x, weight);
  EXPECT_EQ(seen, torch::kBFloat16) << "its own rule again";
}

TEST_P(RegisterAutocast, WhatCantBeIsRefused) {
  const auto register_op = [&](const char* op, CastRule rule) {
    register_autocast(op, rule, GetParam());
  };
  const auto where = "[register_autocast]";
  EXPECT_ERROR(register_op("mm", CastRule::keep), UsageError, where, "OpPolicy");
  EXPECT_ERROR(register_op("aten::mm", CastRule::keep), UsageError, where, "'aten::mm'");
  EXPECT_ERROR(register_op("halfstep_own_ops::lov", CastRule::keep), UsageError, "low");
  EXPECT_ERROR(register_op("halfstep_own_ops::writes", CastRule::keep), UsageError,
               "write none of its arguments");
  EXPECT_ERROR(register_op("halfstep_own_ops::low", CastRule::keep), UsageError, where,
               "has one; register it once");
  EXPECT_ERROR(register_op("halfstep_own_ops::unregistered", CastRule::float32_set_dtype),
               UsageError, "float32_set_dtype");
  EXPECT_ERROR(register_autocast("halfstep_own_ops::taken", CastRule::keep, torch::kCPU),
               UsageError, where, "halfstep_own_ops::taken has one");
  EXPECT_ERROR(register_autocast("halfstep_own_ops::unregistered", CastRule::keep, torch::kMeta),
               UsageError, where, "but got meta");
}

namespace {

struct SoftmaxTwice : CustomFunction<SoftmaxTwice> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x) {
    context->save_for_backward({x});
    return torch::softmax(x, 1);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list&) {
    const auto again = torch::softmax(context->get_saved_variables()[0], 1);
    seen = again.scalar_type();
    return {again};
  }
};

}  // namespace

TEST_P(RegisterAutocast, CustomFunctionsWithoutAPolicyKeepToLibTorchsList) {
  const auto x = random(torch::kBFloat16).requires_grad_();
  const auto region = AutocastOptions(GetParam()).dtype(torch::kBFloat16);
  const bool on_cuda = GetParam() == torch::kCUDA;  // whose list has softmax in float32
  at::Tensor output;
  {
    const Autocast stock(region);
    output = SoftmaxTwice::apply(x);
  }
  auto policy = OpPolicy::torch(GetParam());
  policy.set("softmax", on_cuda ? CastRule::keep : CastRule::float32);
  const Autocast autocast(AutocastOptions(region).policy(policy));
  output.sum().backward();
  EXPECT_EQ(seen, on_cuda ? torch::kFloat : torch::kBFloat16);
  EXPECT_EQ(at::softmax(x, 1).scalar_type(), on_cuda ? torch::kBFloat16 : torch::kFloat)
      << "the caller's region goes on";
}

TEST_P(RegisterAutocast, CustomFunctionsKeepThePolicyOfForward) {
  const auto x = random(torch::kBFloat16).requires_grad_();
  auto policy = OpPolicy::torch(GetParam());
  policy.set("softmax", CastRule::float32);
  for (const bool with_policy : {true, false}) {
    at::Tensor output;
    {
      AutocastOptions options(GetParam());
      options.dtype(torch::kBFloat16);
      auto keeping = OpPolicy::torch(GetParam());
      keeping.set("softmax", CastRule::keep);
      options.policy(with_policy ? policy : keeping);
      const Autocast autocast(options);
      output = SoftmaxTwice::apply(x);
    }
    const auto expected = with_policy ? torch::kFloat : torch::kBFloat16;
    EXPECT_EQ(output.scalar_type(), expected);
    output.sum().backward();
    EXPECT_EQ(seen, expected);
  }
}

}  // namespace halfstep::testing
