#pragma once
#include <cstddef>
#include <vector>

#include <ATen/core/Tensor.h>

namespace halfstep::inspect::detail {

/// The smallest and largest elements of tensors, asked for one after the other and read all at
/// once: on a GPU nothing waits before that.
class TensorRanges {
 public:
  /// Both NaN where an element is.
  struct Range {
    double min = 0, max = 0;
  };

  /// Of a floating-point tensor with elements. No op that it calls is seen by callbacks.
  void add(const at::Tensor& tensor);

  /// One for each add(), in their order; begins anew. Syncs with the devices other than the CPU.
  std::vector<Range> take();

 private:
  struct Pending {
    c10::Device device;
    c10::ScalarType dtype;
    std::vector<size_t> places;
    std::vector<at::Tensor> mins, maxs;  // 0-dim
  };

  std::vector<Range> ranges_;
  std::vector<Pending> pending_;
};

}  // namespace halfstep::inspect::detail
