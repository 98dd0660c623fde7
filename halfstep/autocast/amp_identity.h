#pragma once
#include <ATen/core/Tensor.h>

namespace halfstep {

/// OneFlow's markers in the code of a build: `x` itself (a view of it), white or black for a
/// PrecisionPlan. So what follows runs in 16 bits, or in float32, though the plan would not have
/// it so:
///
///   const auto h = halfstep::amp_white_identity(embedding->forward(tokens)) + positions;
///   const auto weights = torch::softmax(halfstep::amp_black_identity(scores), -1);
///
/// Black goes on through gray and clear ops that lead to gray or black ones; white makes gray ops
/// between it and another white op run in 16 bits, and clear ones beside it. Without a plan they
/// do nothing, unless an OpPolicy names "halfstep::amp_white_identity". Gradients pass through.
/// Never syncs.
at::Tensor amp_white_identity(const at::Tensor& x);
at::Tensor amp_black_identity(const at::Tensor& x);

}  // namespace halfstep
