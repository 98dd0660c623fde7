#pragma once
#include "halfstep/graph/program.h"

#include <cstddef>
#include <vector>

#include <ATen/core/Tensor.h>

namespace halfstep::detail {

/// The tensors of a program's placed results, in one block of memory on the CPU: those that are
/// used at the same time lie apart. Their contents are whatever is there.
struct PlacedTensors {
  std::vector<at::Tensor> tensors;  ///< by ValueId, undefined for other values
  size_t count = 0;
  size_t bytes = 0;  ///< of the block

  static PlacedTensors of(const Program& program);
};

}  // namespace halfstep::detail
