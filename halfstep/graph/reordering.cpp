#include "halfstep/graph/reordering.h"

#include <algorithm>
#include <cmath>

#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>
#include <c10/core/GradMode.h>

namespace halfstep::detail {

namespace {

using Dtype = std::optional<c10::ScalarType>;

Dtype coarser(Dtype a, Dtype b) {
  if (!a || !b) return a ? a : b;
  return reordering_bound(*a) >= reordering_bound(*b) ? a : b;
}

bool is_fraction(c10::ScalarType dtype) {
  return c10::isFloatingType(dtype) || c10::isComplexType(dtype);
}

/// The coarsest floating dtype among a call's tensors; float32 where it has none.
c10::ScalarType dtype_of(const Program& program, const Instruction& call) {
  Dtype coarsest;
  for (const auto* places : {&call.operands, &call.results}) {
    for (const auto& place : *places) {
      const auto dtype = program.value(place.value).geometry.dtype;
      if (is_fraction(dtype)) coarsest = coarser(coarsest, dtype);
    }
  }
  return coarsest.value_or(c10::kFloat);
}

at::Tensor as_doubles(const at::Tensor& tensor) {
  const auto dense = tensor.detach().cpu();
  return (dense.is_complex() ? at::view_as_real(dense.resolve_conj()) : dense)
      .to(c10::kDouble)
      .flatten();
}

}  // namespace

std::vector<Dtype> reordered_values(const Program& program) {
  int32_t count = 0;
  for (const auto& value : program.values) count = std::max(count, value.memory + 1);
  std::vector<Dtype> memories(static_cast<size_t>(count));
  const auto memory_of = [&](ValueId id) -> Dtype& {
    return memories[size_t(program.value(id).memory)];
  };
  for (const auto& call : program.code) {
    Dtype coarsest;
    for (const auto& operand : call.operands)
      coarsest = coarser(coarsest, memory_of(operand.value));
    if (call.reorders) coarsest = coarser(coarsest, dtype_of(program, call));
    if (!coarsest) continue;
    const auto reach = [&](ValueId id) {
      const auto dtype = program.value(id).geometry.dtype;
      memory_of(id) = coarser(coarsest, is_fraction(dtype) ? Dtype(dtype) : std::nullopt);
    };
    for (const auto& result : call.results) reach(result.value);
    for (const auto id : call.writes) reach(id);
  }
  std::vector<Dtype> values;
  for (const auto& value : program.values) values.push_back(memories[size_t(value.memory)]);
  return values;
}

double reordering_bound(c10::ScalarType coarsest) {
  switch (c10::toRealValueType(coarsest)) {
    case c10::kDouble:
      return std::ldexp(1.0, -40);
    case c10::kFloat:
      return std::ldexp(1.0, -14);
    case c10::kHalf:
      return std::ldexp(1.0, -7);
    default:
      return std::ldexp(1.0, -5);
  }
}

double largest_magnitude(const at::Tensor& tensor) {
  if (!tensor.defined() || tensor.numel() == 0 || !is_fraction(tensor.scalar_type())) return 0;
  const c10::NoGradGuard no_grad;
  const auto values = as_doubles(tensor).abs();
  return at::where(values.isfinite(), values, 0.0).max().item<double>();
}

std::string too_far(const at::Tensor& expected, const at::Tensor& got, double limit) {
  if (expected.defined() != got.defined()) return "is there in one of them only";
  if (!expected.defined()) return "";
  if (expected.sizes() != got.sizes() || expected.scalar_type() != got.scalar_type())
    return "has another shape or dtype";
  if (expected.numel() == 0 || !is_fraction(expected.scalar_type())) return "";
  const c10::NoGradGuard no_grad;
  const auto a = as_doubles(expected), b = as_doubles(got);
  const auto same = (a == b).logical_or(a.isnan().logical_and(b.isnan()));
  // inf - inf and what has a NaN on one side are as far as can be.
  const auto distance = (a - b).abs().nan_to_num(INFINITY, INFINITY).masked_fill(same, 0.0);
  const auto worst = distance.argmax().item<int64_t>();
  const auto farthest = distance[worst].item<double>();
  if (!(farthest > limit)) return "";
  return c10::str("differs by ", farthest, " in element ", worst, " (", a[worst].item<double>(),
                  " eager, ", b[worst].item<double>(), " replayed), ",
                  (distance > limit).sum().item<int64_t>(), " of ", a.numel(),
                  " elements by more than ", limit);
}

}  // namespace halfstep::detail
