#pragma once
#include "halfstep/inspect/overflow_finding.h"

#include <memory>
#include <optional>

namespace torch::nn {
class Module;
}

namespace halfstep::inspect {

namespace detail {
class OpRecordingGuard;
class OverflowTrace;
}  // namespace detail

/// Finds where an inf or NaN came from: the first op of a step, forward or backward, whose result
/// was not finite, with the range of what it was given.
///
///   halfstep::inspect::OverflowTracer tracer(*net);
///   for (auto& batch : *loader) {
///     …forward, backward…
///     tracer.pause();                       // unscaling and the update are not the model's
///     …scaler.step(optimizer), update…
///     tracer.resume();
///     if (const auto finding = tracer.end_step()) std::cout << *finding;
///   }
///
///   forward: addmm (in linear) of fc2 gave inf
///     result: addmm in fc2, float16 [64, 10], from -inf to 6.1e+04
///     from: weight fc2.bias, float16 [10], from -0.1 to 0.1
///     from: relu in fc1, float16 [64, 256], from 0 to 6.5e+04
///     from: weight fc2.weight, float16 [256, 10], from -12 to 12
///
/// Each op's results are reduced to their smallest and largest element, on their device; what an op
/// is given is known from the op that made it, so nothing is kept alive. Ops made of other ops,
/// views, and memory that nobody has written yet are left out. An infinity that the program asks
/// for (`masked_fill(…, -inf)`, a buffer with -inf in it) and what other infinities follow from it
/// is none; a NaN always is one. Under a dynamic loss scale an overflow of the backward now and
/// then is no fault: the scale is being found.
///
/// Modules are told as by PrecisionRecorder; an op of backward is of the module whose forward op it
/// differentiates, as far as autograd's node has a number of that op's (custom functions have
/// none).
///
/// A property of the thread, as PrecisionRecorder is, and only one of both records at a time: the
/// inner one. Costs up to about the time of the step; on a GPU, syncs in end_step() alone. Sparse,
/// complex and integer tensors are not looked at.
class [[nodiscard]] OverflowTracer {
 public:
  /// Begins to trace; modules are known by ModuleScopes with a path alone.
  OverflowTracer();
  /// Begins to trace, by modules and names of `root` as they are now.
  explicit OverflowTracer(const torch::nn::Module& root);
  /// Ends it, on the thread that made it.
  ~OverflowTracer();
  OverflowTracer(const OverflowTracer&) = delete;
  OverflowTracer& operator=(const OverflowTracer&) = delete;

  /// Leaves out what begins from pause() to resume().
  void pause();
  void resume();

  /// The first result since the last call that was not finite, or none; begins a new step. Syncs.
  std::optional<OverflowFinding> end_step();

 private:
  explicit OverflowTracer(const torch::nn::Module* root);
  std::shared_ptr<detail::OverflowTrace> trace_;
  std::unique_ptr<detail::OpRecordingGuard> guard_;
};

}  // namespace halfstep::inspect
