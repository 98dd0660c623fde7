#pragma once
#include <cstdint>

#include <ATen/core/Tensor.h>

namespace halfstep::train {

/// Examples side by side: both tensors have the batch as their first dimension.
struct Batch {
  at::Tensor data;
  at::Tensor target;
};

/// A data set with random access.
class Dataset {
 public:
  virtual ~Dataset() = default;

  /// Number of examples.
  virtual int64_t size() const = 0;

  /// The examples of `indices` (int64, shape (n), CPU, each in [0, size())), in that order, on the
  /// CPU. Must give the same tensors for the same indices: resume depends on it. Called from one
  /// thread at a time. Where they lie in pinned memory, a GPU may read them after the next call.
  virtual Batch get_batch(const at::Tensor& indices) const = 0;

  /// The same for data sets with random transforms: `draw` is another number in each epoch of each
  /// seed. Must give the same tensors for the same indices and draw. A Loader calls this one.
  virtual Batch draw_batch(const at::Tensor& indices, uint64_t /*draw*/) const {
    return get_batch(indices);
  }
};

}  // namespace halfstep::train
