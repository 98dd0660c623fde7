#pragma once
#include "halfstep/core/debug_info.h"

#include <cstdint>
#include <optional>

namespace halfstep {

/// Rehearses float16 training on the CPU: while it lives, the operations below take float16
/// tensors, compute in float32 and round their results to float16. That is what a GPU does, with
/// its range (a result above 65504 is inf) and its precision, at the speed of float32; LibTorch's
/// own float16 kernels for the CPU can be a hundred times slower.
///
///   const halfstep::HalfRehearsal rehearsal;
///   halfstep::GradScaler scaler(halfstep::GradScalerOptions(torch::kCPU));
///   …
///     const halfstep::Autocast autocast(
///         halfstep::AutocastOptions(torch::kCPU).dtype(torch::kHalf));
///
/// Operations: mm, addmm, _addmm_activation, bmm, baddbmm, mv, addmv, dot, vdot (also in place and
/// into an `out`), convolution and convolution_backward, an LSTM layer and its backward,
/// _scaled_dot_product_flash_attention_for_cpu and its backward; whatever calls them (linear,
/// matmul, einsum, conv2d, LSTM, …) is rehearsed with them. Each result equals the float32
/// kernel's, rounded once, to the bit. All others run LibTorch's kernels, and so do these for
/// tensors of other dtypes. autocast is not needed: a model in float16 is rehearsed too.
///
/// The backward of what was computed inside is rehearsed wherever backward() is called, and inside
/// a rehearsal every backward is. The backward of a torch::autograd::Function of your own goes by
/// where backward() is called.
///
/// A property of the thread: backward() carries it to autograd's threads, and halfstep::propagate
/// to threads of your own. Nests; `HalfRehearsal(false)` inside one switches it off. On tensors of
/// other devices it does nothing. Lives on the thread that made it and ends before what was made
/// before it; else it says so on standard error and ends the program. Never syncs.
///
/// The first one registers kernels for the process: each call of these operations costs about 0.1
/// µs more from then on, without a rehearsal too. No other thread may compute while it is made.
/// Each thread that rehearsed keeps up to 40 MiB for its next casts.
class [[nodiscard]] HalfRehearsal {
 public:
  /// `enabled` false: switches off the one around it.
  explicit HalfRehearsal(bool enabled = true);
  ~HalfRehearsal();
  HalfRehearsal(const HalfRehearsal&) = delete;
  HalfRehearsal& operator=(const HalfRehearsal&) = delete;

  /// Whether this thread is inside a rehearsal.
  static bool is_enabled();

  /// How many operations were rehearsed so far, over all threads of the process.
  static int64_t uses();

 private:
  std::optional<detail::DebugInfoEntry> entry_;
};

}  // namespace halfstep
