#pragma once
#include <cstdint>

namespace halfstep::dist {

/// In which dtype gradients travel between ranks.
enum class GradientCompression {
  none,      ///< their own
  float16,   ///< LibTorch's FP16_COMPRESS hook: half the traffic of float32; overflows past 65504
  bfloat16,  ///< half the traffic and float32's range, with 8 bits of precision
};

/// How gradients are exchanged. The names and defaults are Python's (DistributedDataParallel's).
///
///   DistributedDataParallelOptions().find_unused_parameters(true).bucket_cap_mb(50)
class DistributedDataParallelOptions {
 public:
  /// Gradients are exchanged in buckets of about so many MiB, each as soon as it is full while
  /// backward goes on. Default: 25. Above 0.
  DistributedDataParallelOptions& bucket_cap_mb(double value) {
    return bucket_cap_mb_ = value, *this;
  }
  double bucket_cap_mb() const { return bucket_cap_mb_; }

  /// True: a parameter may take no part in a loss, on some ranks or on all; the graph is searched
  /// for such in each step. Default: false, and one that takes no part is an error.
  DistributedDataParallelOptions& find_unused_parameters(bool value) {
    return find_unused_parameters_ = value, *this;
  }
  bool find_unused_parameters() const { return find_unused_parameters_; }

  /// True: buffers (running statistics) are rank 0's in each forward that is trained on. Default:
  /// true.
  DistributedDataParallelOptions& broadcast_buffers(bool value) {
    return broadcast_buffers_ = value, *this;
  }
  bool broadcast_buffers() const { return broadcast_buffers_; }

  /// True: gradients are views into the buckets, which saves their memory once and a copy in each
  /// step; detach_() on them is an error then. Default: false.
  DistributedDataParallelOptions& gradient_as_bucket_view(bool value) {
    return gradient_as_bucket_view_ = value, *this;
  }
  bool gradient_as_bucket_view() const { return gradient_as_bucket_view_; }

  /// Default: none.
  DistributedDataParallelOptions& gradient_compression(GradientCompression value) {
    return gradient_compression_ = value, *this;
  }
  GradientCompression gradient_compression() const { return gradient_compression_; }

 private:
  double bucket_cap_mb_ = 25;
  bool find_unused_parameters_ = false;
  bool broadcast_buffers_ = true;
  bool gradient_as_bucket_view_ = false;
  GradientCompression gradient_compression_ = GradientCompression::none;
};

}  // namespace halfstep::dist
