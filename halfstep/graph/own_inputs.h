#pragma once
#include "halfstep/graph/program.h"

#include <functional>
#include <vector>

#include <ATen/core/Tensor.h>

namespace halfstep::detail {

/// The memory of a tensor; null where it has none.
const c10::StorageImpl* storage_of(const at::Tensor& tensor);

/// The defined inputs of a call, those copied that share memory with an earlier one or with others:
/// what a program knows of memory must not depend on who passes what.
struct OwnInputs {
  std::vector<at::Tensor> tensors;
  std::vector<bool> copied;

  OwnInputs(const std::vector<at::Tensor>& inputs,
            const std::function<bool(const c10::StorageImpl*)>& is_of_others);

  /// Throws UsageError where `program` changes an input that was copied.
  void check_writes(const Program& program) const;
};

}  // namespace halfstep::detail
