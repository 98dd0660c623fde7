#pragma once
#include "halfstep/graph/program.h"

#include <optional>
#include <string>
#include <vector>

namespace halfstep::detail {

/// Where the results of a program may differ from the recorded step's in their last bits: what
/// calls that reorder arithmetic (Instruction::reorders) computed, and all that came of it. For
/// each value, the coarsest floating dtype on the way; none: it has the recorded bits.
std::vector<std::optional<c10::ScalarType>> reordered_values(const Program& program);

/// How far such a result may lie from an eager one, as a part of the largest magnitude among the
/// elements of its tensor (or a 64th of that among all tensors of its kind, because what cancels
/// out is only as exact as what it was the sum of): 2^-5 where the coarsest dtype on the way is
/// bfloat16 (eight roundings), 2^-7 for float16, 2^-14 for float32, 2^-40 for float64. Sums of a
/// thousand terms and a few layers stay far within, another computation does not.
double reordering_bound(c10::ScalarType coarsest);

/// The largest magnitude of the finite elements; 0 for undefined, empty and integral tensors.
double largest_magnitude(const at::Tensor& tensor);

/// How `got` lies farther from `expected` than `limit` in some element, as a clause; empty where it
/// does not. NaN and infinite elements must be alike. Integral tensors are not compared: a count of
/// what was rounded another way is another.
std::string too_far(const at::Tensor& expected, const at::Tensor& got, double limit);

}  // namespace halfstep::detail
