#pragma once
#include <string_view>

#include <ATen/core/Tensor.h>

namespace halfstep::testing {

enum class Direction { forward, backward };

/// How far two right answers may lie apart: |got - expected| <= absolute + relative * |expected|.
struct Tolerance {
  double relative;
  double absolute;
};

/// The one tolerance of the tests. `op` names what was computed ("matmul", "conv", "softmax",
/// "update", "step", "elementwise"); an unknown name fails. It is a number of roundings in the
/// dtype, from how long the op's sums are.
Tolerance tolerance(c10::ScalarType dtype, std::string_view op,
                    Direction direction = Direction::forward);

/// Fails with the worst element, its index, both values and the number of elements outside. NaN
/// equals NaN.
void expect_close(const at::Tensor& got, const at::Tensor& expected, Tolerance tolerance);

/// Fails unless shape, dtype and every bit agree.
void expect_same_bits(const at::Tensor& got, const at::Tensor& expected);

}  // namespace halfstep::testing
