// Ports of PyTorch's tests of custom_fwd and custom_bwd (test_cuda.py, TestCudaAutocast).
#include "halfstep/autocast/custom_function.h"

#include <map>
#include <thread>

#include <ATen/autocast_mode.h>
#include <torch/types.h>

#include "tests/support/devices.h"
#include "tests/support/tolerance.h"

namespace halfstep::testing {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// What a function saw, for the test to look at.
struct Seen {
  bool forward_enabled = false, backward_enabled = false;
  c10::ScalarType forward_dtype = torch::kLong, backward_dtype = torch::kLong;
  c10::ScalarType input = torch::kLong, gradient = torch::kLong;
} seen;

c10::DeviceType type_of(const at::Tensor& tensor) {
  return tensor.device().type();
}

variable_list product_backward(AutogradContext* context, const variable_list& grads) {
  const auto saved = context->get_saved_variables();
  const auto device_type = type_of(saved[0]);
  seen.backward_enabled = at::autocast::is_autocast_enabled(device_type);
  seen.backward_dtype = at::autocast::get_autocast_dtype(device_type);
  auto first = grads[0].mm(saved[1].t());
  seen.gradient = first.scalar_type();
  return {first, saved[0].t().mm(grads[0])};
}

at::Tensor product_forward(AutogradContext* context, const at::Tensor& a, const at::Tensor& b) {
  seen.forward_enabled = at::autocast::is_autocast_enabled(type_of(a));
  seen.forward_dtype = at::autocast::get_autocast_dtype(type_of(a));
  seen.input = a.scalar_type();
  context->save_for_backward({a, b});
  return a.mm(b);
}

struct Product : CustomFunction<Product> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& a, const at::Tensor& b) {
    return product_forward(context, a, b);
  }
  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    return product_backward(context, grads);
  }
};

struct ProductInFloat32 : CustomFunction<ProductInFloat32> {
  static constexpr auto cast_inputs = torch::kFloat;
  using Container = std::tuple<int, std::map<int, at::Tensor>>;
  static at::Tensor forward(AutogradContext* context, const at::Tensor& a,
                            const Container& container, c10::ScalarType expected) {
    const auto& b = std::get<1>(container).at(0);
    EXPECT_EQ(b.scalar_type(), expected);
    return product_forward(context, a, b);
  }
  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    return {product_backward(context, grads)[0], {}, {}};
  }
};

struct Square : CustomFunction<Square> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x) {
    context->save_for_backward({x});
    return x * x;
  }
  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    return {2 * grads[0] * context->get_saved_variables()[0]};
  }
};

struct SquareInFloat32 : CustomFunction<SquareInFloat32> {
  static constexpr auto cast_inputs = torch::kFloat;
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x) {
    return Square::forward(context, x);
  }
  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    return Square::backward(context, grads);
  }
};

struct Plain : torch::autograd::Function<Plain> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& a, const at::Tensor& b) {
    return product_forward(context, a, b);
  }
  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    return product_backward(context, grads);
  }
};

}  // namespace

class CustomFunctions : public DeviceTest {
 protected:
  void SetUp() override {
    DeviceTest::SetUp();
    seen = Seen();
  }
  at::Tensor random(c10::ScalarType dtype, bool requires_grad) const {
    return torch::randn({8, 8}, torch::device(device())).to(dtype).requires_grad_(requires_grad);
  }
};
HALFSTEP_ON_EACH_DEVICE(CustomFunctions);

TEST_P(CustomFunctions, BackwardRunsInForwardsRegion) {
  for (const auto dtype : {torch::kHalf, torch::kBFloat16}) {
    const auto x = random(torch::kFloat, true), y = random(torch::kFloat, true);
    at::Tensor loss;
    {
      const Autocast autocast(AutocastOptions(GetParam()).dtype(dtype));
      const auto output = Product::apply(x, y);
      EXPECT_EQ(output.scalar_type(), dtype);
      expect_same_bits(output, x.to(dtype).mm(y.to(dtype)));
      loss = output.sum();
    }
    EXPECT_TRUE(seen.forward_enabled);
    EXPECT_EQ(seen.input, torch::kFloat) << "forward gets what it was given";
    loss.backward();  // outside of any region
    EXPECT_TRUE(seen.backward_enabled);
    EXPECT_EQ(seen.backward_dtype, dtype);
    EXPECT_EQ(seen.gradient, dtype);
    EXPECT_EQ(x.grad().scalar_type(), torch::kFloat);
    const auto ones = torch::ones({8, 8}, torch::device(device()).dtype(dtype));
    expect_same_bits(x.grad(), ones.mm(y.detach().to(dtype).t()).to(torch::kFloat));
  }
}

TEST_P(CustomFunctions, WithoutItBackwardRunsInTheCallersRegion) {
  const auto x = random(torch::kFloat, true), y = random(torch::kFloat, true);
  at::Tensor loss;
  {
    const Autocast autocast(AutocastOptions(GetParam()).dtype(torch::kBFloat16));
    loss = Plain::apply(x, y).to(torch::kFloat).sum();
  }
  EXPECT_ANY_THROW(loss.backward()) << "a bfloat16 gradient times a float32 tensor";
  EXPECT_FALSE(seen.backward_enabled);
}

TEST_P(CustomFunctions, ForwardOutsideAnyRegion) {
  const auto x = random(torch::kFloat, true), y = random(torch::kFloat, true);
  const auto output = Product::apply(x, y);
  const Autocast autocast(AutocastOptions(GetParam()).dtype(torch::kBFloat16));
  output.sum().backward();
  EXPECT_FALSE(seen.forward_enabled);
  EXPECT_FALSE(seen.backward_enabled);
  EXPECT_EQ(seen.gradient, torch::kFloat);
}

TEST_P(CustomFunctions, BackwardFromAnotherThread) {
  const auto x = random(torch::kFloat, true), y = random(torch::kFloat, true);
  at::Tensor loss;
  {
    const Autocast autocast(AutocastOptions(GetParam()).dtype(torch::kHalf));
    loss = Product::apply(x, y).sum();
  }
  std::thread([&] { loss.backward(); }).join();
  EXPECT_TRUE(seen.backward_enabled);
  EXPECT_EQ(seen.backward_dtype, torch::kHalf);
}

TEST_P(CustomFunctions, CastInputs) {
  const auto x = random(torch::kHalf, true);
  // No gradient reaches a tensor in a container: autograd does not look inside.
  const ProductInFloat32::Container y{0, {{0, random(torch::kHalf, false)}}};
  const auto& inner = std::get<1>(y).at(0);
  {
    const Autocast autocast(AutocastOptions(GetParam()).dtype(torch::kHalf));
    const auto output = ProductInFloat32::apply(x, y, torch::kFloat);
    EXPECT_EQ(output.scalar_type(), torch::kFloat);
    EXPECT_FALSE(seen.forward_enabled);
    EXPECT_EQ(seen.input, torch::kFloat);
    seen.backward_enabled = true;
    output.sum().backward();
    EXPECT_FALSE(seen.backward_enabled);
    EXPECT_EQ(seen.gradient, torch::kFloat);
    EXPECT_EQ(x.grad().scalar_type(), torch::kHalf);
    EXPECT_TRUE(x.grad().ne(0).any().item<bool>());
  }
  // A no-op outside of a region.
  const auto output = ProductInFloat32::apply(x, y, torch::kHalf);
  EXPECT_EQ(output.scalar_type(), torch::kHalf);
  expect_same_bits(output, x.mm(inner));
}

// A device type without autocast: a plain function, forward and backward.
TEST(CustomFunctionsOnMeta, PassThrough) {
  const auto x = torch::ones({3}, torch::device(torch::kMeta).dtype(torch::kHalf)).requires_grad_();
  const Autocast autocast(torch::kCPU);
  Square::apply(x).sum().backward();
  EXPECT_EQ(x.grad().device().type(), torch::kMeta);
  EXPECT_EQ(SquareInFloat32::apply(x).scalar_type(), torch::kHalf);
  SquareInFloat32::apply(x).sum().backward();
}

TEST_P(CustomFunctions, CastsNeitherDoubleNorIntegers) {
  auto cast = detail::cast_eligible(GetParam(), torch::kHalf);
  const auto of = [&](c10::ScalarType dtype) {
    return cast(torch::ones({1}, torch::device(device()).dtype(dtype))).scalar_type();
  };
  EXPECT_EQ(of(torch::kFloat), torch::kHalf);
  EXPECT_EQ(of(torch::kBFloat16), torch::kHalf);
  EXPECT_EQ(of(torch::kDouble), torch::kDouble);
  EXPECT_EQ(of(torch::kLong), torch::kLong);
  EXPECT_EQ(cast(torch::ones({1}, torch::kMeta)).scalar_type(), torch::kFloat) << "another device";
}

}  // namespace halfstep::testing
