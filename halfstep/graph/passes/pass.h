#pragma once
#include "halfstep/graph/program.h"

#include <string>
#include <vector>

namespace halfstep::detail {

/// A change of a Program that leaves its results as they are, to the bit; or, where it marks calls
/// with Instruction::reorders, but for the last bits of what comes of those, which the checked mode
/// then compares within reordering_bound().
struct Pass {
  const char* name;
  /// Returns how often it did so.
  int64_t (*run)(Program& program);
  /// What it did how often, as "took … calls away".
  const char *did = "took", *what = "calls away";
  /// Whether it runs where nobody asks for it: not where it reorders.
  bool by_default = true;
};

/// All of them, in the order they run.
const std::vector<Pass>& passes();

/// A view that looks like an older value of the same memory is that value: detach(), t() of a t(),
/// the same view taken again.
int64_t reuse_views(Program& program);

/// A call that repeats an earlier one, with nothing it reads written in between, gives its result:
/// the same cast twice. Not where somebody writes into one of the two, or gets it.
int64_t reuse_results(Program& program);

/// A cast back of a cast that lost nothing (bfloat16 to float32 to bfloat16, not the other way) is
/// the value before both, where nobody writes into the three or gets them. Of NaNs it keeps bits
/// that the casts would not.
int64_t drop_inverse_casts(Program& program);

/// Calls whose results nobody uses.
int64_t remove_dead_calls(Program& program);

/// Calls for which halfstep has a faster kernel with the same bits: gelu_backward of contiguous
/// bfloat16 tensors on the CPU.
int64_t choose_kernels(Program& program);

/// Weight gradients of 2-D convolutions on the CPU that halfstep computes faster, as products of
/// matrices, on this machine: of float32, and of bfloat16 where the CPU has such products. Sums are
/// in another order.
int64_t lower_convolutions(Program& program);

/// Batch norms in training of bfloat16 images on the CPU that lie channels-last, with the sum and
/// the relu that follow; their backwards with the sum of two gradients and the relu's backward
/// before.
int64_t fuse_batch_norm(Program& program);

/// Runs of element-wise calls on float32 and bfloat16 tensors that lie alike on the CPU (add, mul,
/// relu, threshold_backward at 0, casts), each on the result of the one before: one call that goes
/// through them block by block. Also a sum or product of two dtypes alone.
int64_t fuse_elementwise(Program& program);

/// On the CPU, results of more than 64 KiB of element-wise calls that have an op which writes into
/// a tensor it is given: into an operand that lies as they do and that nobody looks at afterwards.
int64_t write_in_place(Program& program);

/// Where all is on the CPU: small results whose op has one that writes into a tensor it is given
/// get one that stays; views of those and of what lives on, and numbers that depend on nothing, are
/// made once. Last, for programs of such calls are no others' business.
int64_t place_results(Program& program);

}  // namespace halfstep::detail
