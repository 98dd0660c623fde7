#include "tests/support/tolerance.h"

#include <cmath>
#include <cstring>
#include <map>
#include <stdexcept>

#include <torch/types.h>

#include <gtest/gtest.h>

namespace halfstep::testing {

namespace {
double epsilon(c10::ScalarType dtype) {
  switch (dtype) {
    case c10::kDouble:
      return std::ldexp(1.0, -52);
    case c10::kFloat:
      return std::ldexp(1.0, -23);
    case c10::kHalf:
      return std::ldexp(1.0, -10);
    case c10::kBFloat16:
      return std::ldexp(1.0, -7);
    default:
      throw std::invalid_argument("no tolerance for this dtype");
  }
}
}  // namespace

Tolerance tolerance(c10::ScalarType dtype, std::string_view op, Direction direction) {
  // Roundings in the result's own type: products accumulate wider and round once or twice; a
  // training step chains several.
  static const std::map<std::string_view, double> roundings{
      {"elementwise", 1}, {"update", 2}, {"softmax", 4}, {"matmul", 4}, {"conv", 4}, {"step", 16}};
  const double factor = roundings.at(op) * (direction == Direction::backward ? 2 : 1);
  return {factor * epsilon(dtype), factor * epsilon(dtype)};
}

void expect_close(const at::Tensor& got, const at::Tensor& expected, Tolerance tolerance) {
  ASSERT_EQ(got.sizes(), expected.sizes());
  const auto a = got.detach().to(torch::kCPU, torch::kDouble).flatten();
  const auto b = expected.detach().to(torch::kCPU, torch::kDouble).flatten();
  const auto same = (a == b) | (a.isnan() & b.isnan());
  const auto excess =
      ((a - b).abs() - (tolerance.absolute + tolerance.relative * b.abs())).masked_fill(same, -1.0);
  const auto outside = (excess > 0) | (excess.isnan());
  const auto count = outside.sum().item<int64_t>();
  if (count == 0) return;
  const auto worst = excess.nan_to_num(1e300).argmax().item<int64_t>();
  ADD_FAILURE() << count << " of " << a.numel() << " elements differ by more than "
                << tolerance.absolute << " + " << tolerance.relative
                << " * |expected|; the worst is element " << worst << ": got "
                << a[worst].item<double>() << ", expected " << b[worst].item<double>();
}

void expect_same_bits(const at::Tensor& got, const at::Tensor& expected) {
  ASSERT_EQ(got.dtype(), expected.dtype());
  ASSERT_EQ(got.sizes(), expected.sizes());
  const auto a = got.detach().to(torch::kCPU).contiguous();
  const auto b = expected.detach().to(torch::kCPU).contiguous();
  if (a.nbytes() == 0 || std::memcmp(a.const_data_ptr(), b.const_data_ptr(), a.nbytes()) == 0)
    return;
  expect_close(got, expected, {0, 0});
  if (!::testing::Test::HasFailure())
    ADD_FAILURE() << "equal values with different bits (signed zeros or NaN payloads)";
}

}  // namespace halfstep::testing
