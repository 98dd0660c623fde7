// Ports of MMCV's tests/test_runner/test_fp16.py, and what C++ adds.
#include "halfstep/autocast/auto_fp16.h"

#include "halfstep/autocast/fp16_module.h"
#include "halfstep/core/error.h"

#include <map>

#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/linear.h>
#include <torch/types.h>

#include "tests/support/devices.h"
#include "tests/support/errors.h"
#include "tests/support/tolerance.h"
#include "tests/support/warnings.h"

namespace halfstep::testing {

namespace {

constexpr auto f32 = torch::kFloat, f16 = torch::kHalf, bf16 = torch::kBFloat16;
using Dtypes = std::vector<c10::ScalarType>;

struct ExampleImpl : torch::nn::Module, Fp16Enabled {
  std::tuple<at::Tensor, at::Tensor> two(const at::Tensor& x, const at::Tensor& y) {
    return {x, y};
  }
  std::tuple<at::Tensor, at::Tensor, at::Tensor> three(at::Tensor x, at::Tensor y = {},
                                                       at::Tensor z = {}) {
    return {x, y, z};
  }
};
TORCH_MODULE(Example);

struct NoFlag : torch::nn::Module {
  at::Tensor same(const at::Tensor& x) { return x; }
};

struct NoModule {
  at::Tensor operator()(const at::Tensor& x) { return x; }
};

template <class Tuple>
Dtypes dtypes(const Tuple& outputs) {
  return std::apply([](const auto&... each) { return Dtypes{each.scalar_type()...}; }, outputs);
}

}  // namespace

TEST(CastTensorType, CastsTheSourceTypeAlone) {
  EXPECT_EQ(cast_tensor_type(torch::full({1}, 5.), f32, torch::kInt).scalar_type(), torch::kInt);
  EXPECT_EQ(cast_tensor_type(torch::ones({1}), f32, f16).scalar_type(), f16);
  for (const auto other : {torch::kInt, torch::kDouble, f16, bf16}) {
    const auto tensor = torch::ones({1}, other);
    EXPECT_TRUE(cast_tensor_type(tensor, f32, torch::kLong).is_same(tensor)) << other;
  }
  EXPECT_EQ(cast_tensor_type(std::string("tensor"), f32, f16), "tensor");
  EXPECT_EQ(cast_tensor_type(5, f32, f16), 5);
  EXPECT_EQ(cast_tensor_type(std::vector<double>{5}, f32, f16), std::vector<double>{5});
  const std::map<std::string, at::Tensor> dict{{"a", torch::ones({1})}, {"b", torch::ones({1})}};
  for (const auto& [name, tensor] : cast_tensor_type(dict, f32, torch::kInt))
    EXPECT_EQ(tensor.scalar_type(), torch::kInt) << name;
  const std::vector<at::Tensor> list{torch::ones({1}), torch::ones({1})};
  const auto cast = cast_tensor_type(list, f32, torch::kInt);
  EXPECT_EQ(cast.size(), 2U);
  for (const auto& tensor : cast) EXPECT_EQ(tensor.scalar_type(), torch::kInt);
}

class AutoFp16 : public DeviceTest {
 protected:
  at::Tensor one(c10::ScalarType dtype = f32) const {
    return torch::ones({1}, torch::device(device()).dtype(dtype));
  }
  Example example(bool enabled) const {
    Example made;
    if (enabled) wrap_fp16_model(*made);
    return made;
  }
};
class ForceFp32 : public AutoFp16 {};
HALFSTEP_ON_EACH_DEVICE(AutoFp16);
HALFSTEP_ON_EACH_DEVICE(ForceFp32);

TEST_P(AutoFp16, OnlyOfModules) {
  using Wrapper = decltype(auto_fp16(&NoModule::operator()));
  EXPECT_FALSE((std::is_invocable_v<Wrapper, NoModule&, at::Tensor>));
  using OfModule = decltype(auto_fp16(&NoFlag::same));
  EXPECT_TRUE((std::is_invocable_v<OfModule, NoFlag&, at::Tensor>));
}

TEST_P(AutoFp16, AllArguments) {
  const auto wrapped = auto_fp16(&ExampleImpl::two);
  EXPECT_EQ(dtypes(wrapped(example(false), one(), one())), (Dtypes{f32, f32})) << "off by default";
  EXPECT_EQ(dtypes(wrapped(example(true), one(), one())), (Dtypes{f16, f16}));
}

TEST_P(AutoFp16, ChosenArguments) {
  const auto by_position = auto_fp16(&ExampleImpl::two, AutoFp16Options().apply_to(0));
  const auto by_name =
      auto_fp16(&ExampleImpl::two, AutoFp16Options().argument_names({"x", "y"}).apply_to("x"));
  for (const auto& wrapped : {by_position, by_name}) {
    EXPECT_EQ(dtypes(wrapped(example(false), one(), one())), (Dtypes{f32, f32}));
    EXPECT_EQ(dtypes(wrapped(example(true), one(), one())), (Dtypes{f16, f32}));
  }
}

TEST_P(AutoFp16, OptionalArguments) {
  const auto wrapped = auto_fp16(
      &ExampleImpl::three, AutoFp16Options().argument_names({"x", "y", "z"}).apply_to("y", "x"));
  EXPECT_EQ(dtypes(wrapped(example(false), one(), one(), one())), (Dtypes{f32, f32, f32}));
  EXPECT_EQ(dtypes(wrapped(example(true), one(), one(), one())), (Dtypes{f16, f16, f32}));
  const auto with_default = auto_fp16(
      [](ExampleImpl& self, const at::Tensor& x, const at::Tensor& y = {}) {
        return self.two(x, y.defined() ? y : torch::ones({1}));
      },
      AutoFp16Options().apply_to(0, 1));
  EXPECT_EQ(dtypes(with_default(example(true), one(), at::Tensor())), (Dtypes{f16, f32}))
      << "defaults are not cast";
}

TEST_P(AutoFp16, OutFp32) {
  const auto wrapped =
      auto_fp16(&ExampleImpl::three, AutoFp16Options().apply_to(0, 1).out_fp32(true));
  EXPECT_EQ(dtypes(wrapped(example(false), one(f16), one(), one())), (Dtypes{f16, f32, f32}));
  EXPECT_EQ(dtypes(wrapped(example(true), one(f16), one(), one())), (Dtypes{f32, f32, f32}));
}

TEST_P(ForceFp32, OnlyOfModules) {
  using Wrapper = decltype(force_fp32(&NoModule::operator()));
  EXPECT_FALSE((std::is_invocable_v<Wrapper, NoModule&, at::Tensor>));
}

TEST_P(ForceFp32, AllArguments) {
  const auto wrapped = force_fp32(&ExampleImpl::two);
  EXPECT_EQ(dtypes(wrapped(example(false), one(f16), one(f16))), (Dtypes{f16, f16}));
  EXPECT_EQ(dtypes(wrapped(example(true), one(f16), one(f16))), (Dtypes{f32, f32}));
  EXPECT_EQ(dtypes(wrapped(example(true), one(bf16), one(torch::kInt))),
            (Dtypes{f32, torch::kInt}));
}

TEST_P(ForceFp32, ChosenArguments) {
  const auto wrapped = force_fp32(&ExampleImpl::two, ForceFp32Options().apply_to(0));
  EXPECT_EQ(dtypes(wrapped(example(true), one(f16), one(f16))), (Dtypes{f32, f16}));
}

TEST_P(ForceFp32, OptionalArguments) {
  const auto wrapped = force_fp32(
      &ExampleImpl::three, ForceFp32Options().argument_names({"x", "y", "z"}).apply_to("x", "y"));
  EXPECT_EQ(dtypes(wrapped(example(false), one(f16), one(f16), one(f16))), (Dtypes{f16, f16, f16}));
  EXPECT_EQ(dtypes(wrapped(example(true), one(f16), one(f16), one(f16))), (Dtypes{f32, f32, f16}));
}

TEST_P(ForceFp32, OutFp16) {
  const auto wrapped =
      force_fp32(&ExampleImpl::three, ForceFp32Options().apply_to(0, 1).out_fp16(true));
  EXPECT_EQ(dtypes(wrapped(example(false), one(), one(f16), one(f16))), (Dtypes{f32, f16, f16}));
  EXPECT_EQ(dtypes(wrapped(example(true), one(), one(f16), one(f16))), (Dtypes{f16, f16, f16}));
}

TEST_P(AutoFp16, AutocastCastsWhatIsNotAnArgument) {
  torch::manual_seed(1);
  torch::nn::Linear inner(4, 3);
  inner->to(device());
  const auto input = torch::randn({2, 4}).to(device());
  const auto plain = auto_fp16([&](const at::Tensor& x) { return inner->forward(x); });
  const auto none =
      auto_fp16([&](const at::Tensor& x) { return inner->forward(x) + x.sum(1, true); },
                AutoFp16Options().apply_to());
  for (const auto dtype : {f16, bf16}) {
    Example module;
    wrap_fp16_model(*module, dtype);
    const auto product =
        torch::addmm(inner->bias.to(dtype), input.to(dtype), inner->weight.to(dtype).t());
    expect_same_bits(plain(module, input), product);
    EXPECT_EQ(inner->weight.scalar_type(), f32);
    EXPECT_EQ(none(module, input).scalar_type(), f32) << "x itself was not cast";
  }
  Example module;
  expect_same_bits(plain(module, input), inner->forward(input));
}

// Without a tensor among the arguments the region is for the module's device, else for the CPU.
TEST_P(AutoFp16, RegionOfAFunctionWithoutTensors) {
  struct OwnInputImpl : torch::nn::Module, Fp16Enabled {
    at::Tensor weight = register_parameter("weight", torch::ones({4, 4}));
    at::Tensor square() { return weight.mm(weight); }
  };
  const auto model = std::make_shared<OwnInputImpl>();
  model->to(device());
  wrap_fp16_model(*model, bf16);
  EXPECT_EQ(auto_fp16(&OwnInputImpl::square)(model).scalar_type(), bf16);
  EXPECT_EQ(model->weight.device().type(), GetParam());
  const auto on_cpu = auto_fp16([] { return torch::ones({2, 2}).mm(torch::ones({2, 2})); });
  EXPECT_EQ(on_cpu(example(true)).scalar_type(), f16);
}

TEST_P(ForceFp32, AutocastIsOffInside) {
  const auto wrapped = force_fp32([](const at::Tensor& x) { return torch::mm(x, x.t()); });
  const auto x = torch::randn({3, 4}, torch::device(device()));
  const Autocast autocast(AutocastOptions(GetParam()).dtype(bf16));
  const auto low = x.to(bf16);
  EXPECT_EQ(wrapped(example(false), low).scalar_type(), bf16);
  EXPECT_EQ(wrapped(example(true), low).scalar_type(), f32);
  EXPECT_EQ(torch::mm(low, low.t()).scalar_type(), bf16) << "the region goes on after it";
}

TEST_P(AutoFp16, ContainersAndOtherArguments) {
  struct Box : NoFlag, Fp16Enabled {};
  Box box;
  wrap_fp16_model(box);
  using Dict = std::map<std::string, std::vector<at::Tensor>>;
  const auto wrapped = auto_fp16(
      [](const Dict& dict, std::unique_ptr<int> owned, at::TensorList list, std::string text) {
        return std::tuple{dict.at("a")[0], dict.at("a")[1], list[0],
                          torch::full({1}, *owned + static_cast<int>(text.size()))};
      });
  const auto outputs = wrapped(box, Dict{{"a", {one(), one(torch::kLong)}}},
                               std::make_unique<int>(3), at::TensorList({one()}), "four");
  EXPECT_EQ(dtypes(outputs), (Dtypes{f16, torch::kLong, f16, torch::kLong}));
  EXPECT_EQ(std::get<3>(outputs).item<int>(), 7);
}

TEST_P(AutoFp16, FunctionsWithoutResult) {
  c10::ScalarType seen = f32;
  const auto wrapped = auto_fp16([&](const at::Tensor& x) { seen = x.scalar_type(); });
  wrapped(example(true), one());
  EXPECT_EQ(seen, f16);
}

TEST_P(AutoFp16, AClassWithoutTheFlagIsToldOnce) {
  const auto wrapped = auto_fp16(&NoFlag::same);
  const auto forced = force_fp32(&NoFlag::same);
  struct Other : NoFlag {};
  Warnings warnings;
  for (int i = 0; i < 3; ++i) {
    Other other;
    EXPECT_EQ(wrapped(other, one()).scalar_type(), f32);
    EXPECT_EQ(forced(other, one(f16)).scalar_type(), f16);
  }
  if (warnings.messages.empty()) GTEST_SKIP() << "told on the other device";
  ASSERT_EQ(warnings.messages.size(), 1U);
  EXPECT_THAT(warnings.messages[0], ::testing::HasSubstr("[auto_fp16]"));
  EXPECT_THAT(warnings.messages[0], ::testing::HasSubstr("must derive from halfstep::Fp16Enabled"));
}

TEST(AutoFp16Options, WhatIsNoArgumentIsRefused) {
  const auto wrap = [](const AutoFp16Options& options) { auto_fp16(&ExampleImpl::two, options); };
  EXPECT_ERROR(wrap(AutoFp16Options().apply_to("x")), UsageError, "[auto_fp16]",
               "but got 'x' without argument_names");
  EXPECT_ERROR(wrap(AutoFp16Options().argument_names({"x", "y"}).apply_to("pred")), UsageError,
               "but got 'pred' where they are x, y");
  EXPECT_ERROR(wrap(AutoFp16Options().apply_to(2)), UsageError, "from 0 to 1, but got 2");
  EXPECT_ERROR(wrap(AutoFp16Options().argument_names({"x"})), UsageError,
               "a name for each of the method's 2 arguments, but got 1");
  EXPECT_ERROR(force_fp32(&ExampleImpl::two, ForceFp32Options().apply_to(7)), UsageError,
               "[force_fp32]", "but got 7");
}

TEST(WrapFp16Model, EnablesWhatHasTheFlag) {
  struct Net : torch::nn::Module {
    Example example = register_module("example", Example());
    torch::nn::Linear fc = register_module("fc", torch::nn::Linear(2, 2));
    Example other = register_module("other", Example());
  } net;
  net.other->fp16_dtype = bf16;
  EXPECT_EQ(wrap_fp16_model(net), 2);
  EXPECT_TRUE(net.example->fp16_enabled && net.other->fp16_enabled);
  EXPECT_EQ(net.other->fp16_dtype, f16);
  EXPECT_EQ(net.fc->weight.scalar_type(), f32) << "weights stay";
  EXPECT_ERROR(wrap_fp16_model(net, f32), UsageError, "[wrap_fp16_model]", "but got float32");
}

TEST(WrapFp16Model, SaysWhereNothingHasIt) {
  Warnings warnings;
  EXPECT_EQ(wrap_fp16_model(*torch::nn::Linear(2, 2)), 0);
  ASSERT_EQ(warnings.messages.size(), 1U);
  EXPECT_THAT(warnings.messages[0], ::testing::HasSubstr("nothing will be cast"));
}

namespace {
struct NetImpl : Fp16Module<at::Tensor(at::Tensor)> {
  torch::nn::Linear fc = register_module("fc", torch::nn::Linear(4, 3));
  at::Tensor forward_impl(at::Tensor x) override {
    seen = x.scalar_type();
    return fc(x);
  }
  c10::ScalarType seen = f32;
};
TORCH_MODULE(Net);
}  // namespace

TEST_P(AutoFp16, BaseClassWrapsForward) {
  Net net;
  net->to(device());
  const auto input = torch::randn({2, 4}, torch::device(device()));
  EXPECT_EQ(net(input).scalar_type(), f32);
  EXPECT_EQ(wrap_fp16_model(*net, bf16), 1);
  const auto output = net(input);
  EXPECT_EQ(net->seen, bf16);
  expect_same_bits(
      output, torch::addmm(net->fc->bias.to(bf16), input.to(bf16), net->fc->weight.to(bf16).t()));
  net->set_fp16_options(AutoFp16Options().apply_to().out_fp32(true));
  EXPECT_EQ(net(input).scalar_type(), f32);
  EXPECT_EQ(net->seen, f32);
  torch::nn::Sequential sequence(net, torch::nn::Linear(3, 1));
  sequence->to(device());
  EXPECT_EQ(sequence->forward(input).scalar_type(), f32) << "usable in a Sequential";
}

}  // namespace halfstep::testing
