#pragma once
#include "halfstep/graph/kernels/elementwise_blocks.h"

#include <vector>

#include <ATen/core/dispatch/Dispatcher.h>

namespace halfstep::detail {

/// One call of an element-wise run. Its operands are numbers of values: the run's inputs come
/// first, then the results of its steps.
struct ElementwiseStep {
  ElementwiseKind kind = ElementwiseKind::copy;
  int64_t a = 0, b = -1;  ///< b: none
  c10::ScalarType dtype = c10::kFloat;
};

/// At most so many inputs and steps together.
constexpr int64_t kMostElementwiseValues = 16;

/// halfstep::elementwise(Tensor[] inputs, int[] steps, int[] outputs) -> Tensor[]: runs `steps`
/// (`packed()`) block by block, each rounded to its dtype, so that what lies between them stays in
/// the cache; gives the values named by `outputs`. Inputs are float32 or bfloat16 on the CPU, of
/// one size, dense, and lie alike; so do the results.
c10::OperatorHandle elementwise_op();

/// Steps as the op wants them.
std::vector<int64_t> packed(const std::vector<ElementwiseStep>& steps);

/// Whether such a step has the bits of LibTorch's kernel on this machine: tried once.
bool elementwise_has_same_bits(ElementwiseKind kind);

}  // namespace halfstep::detail
