#pragma once
#include "halfstep/graph/program.h"

#include <cstdint>
#include <vector>

#include <ATen/core/dispatch/Dispatcher.h>

namespace halfstep::detail {

/// halfstep::convolution_weight_gradient(grad, input, kernel_size, stride, padding, dilation,
/// channels_last) -> Tensor: the gradient of the weight of a 2-D convolution without groups, on the
/// CPU, in float32 or bfloat16, as a product of `grad` with the patches of `input` that each of its
/// pixels sees. Sums are in another order than oneDNN's, and a pixel of `grad` that is infinite or
/// NaN makes those NaN too that oneDNN leaves out at the borders, because it is multiplied with the
/// zeros around the image. The patches are made in pieces of 256 a thread or 1,024 for all threads
/// in float32, where with the threads' sums they take at most 64 MiB or one piece; all at once in
/// bfloat16, which is rounded once. What does not lie channels-last is copied.
c10::OperatorHandle convolution_weight_gradient_op();

/// A convolution's backward as a program has it.
struct ConvolutionBackward {
  Geometry grad, input, weight;
  std::vector<int64_t> stride, padding, dilation;
  bool channels_last = false;  ///< how the weight's gradient lies
  int threads = 1;

  bool operator==(const ConvolutionBackward& other) const = default;
};

/// Whether the op above takes at most nine tenths of the time of LibTorch's own weight gradient.
/// Both are timed at the first question about such a call in the process, and once more where they
/// are nearly as fast.
bool weight_gradient_is_faster(const ConvolutionBackward& call);

/// What lower_convolutions asks; weight_gradient_is_faster. Tests put others in, while no graph
/// records.
using WeightGradientChoice = bool (*)(const ConvolutionBackward&);
WeightGradientChoice& weight_gradient_choice();

}  // namespace halfstep::detail
