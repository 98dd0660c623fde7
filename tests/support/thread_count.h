#pragma once
#include <ATen/Parallel.h>

namespace halfstep::testing {

/// LibTorch computes with this many threads while it lives. One: sums have one order, so that whole
/// runs can be compared to the bit.
class ThreadCount {
 public:
  explicit ThreadCount(int count) : before_(at::get_num_threads()) { at::set_num_threads(count); }
  ~ThreadCount() { at::set_num_threads(before_); }
  ThreadCount(const ThreadCount&) = delete;
  ThreadCount& operator=(const ThreadCount&) = delete;

 private:
  int before_;
};

}  // namespace halfstep::testing
