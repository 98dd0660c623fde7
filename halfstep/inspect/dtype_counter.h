#pragma once
#include "halfstep/inspect/dtype_report.h"

namespace halfstep::inspect {

/// Counts, while it lives, in which dtype each floating-point operator of its thread runs: asked of
/// LibTorch's dispatcher, not guessed from settings.
///
///   halfstep::inspect::DtypeCounter counter;
///   {
///     halfstep::Autocast autocast(torch::kCPU);
///     loss = F::cross_entropy(net->forward(x), y);
///   }
///   std::cout << counter.report().summary();   // linear bfloat16 x2, activation bfloat16 x1, loss
///   …
///
/// An operator's dtype is that of its first floating-point (or complex) output; one that has none
/// (argmax, eq) is not counted. Autocast calls an operator it lists a second time, with cast
/// inputs: both calls count once, with the inner one's dtype. Ops that autograd runs in backward()
/// are not counted, so that CPU (where backward shares the caller's thread) and CUDA (where it
/// doesn't) report the same.
///
/// Counters nest and may overlap: each counts what ran on its thread while it lived, also inside
/// work that halfstep::propagate brought there. Sees ops under InferenceMode too. Costs nothing
/// while no counter lives, else about a microsecond an op, on every thread, and holds an op's
/// outputs alive until the op ends. Never syncs with the device. Must end on the thread that made
/// it, or says so on standard error and ends the program.
class [[nodiscard]] DtypeCounter {
 public:
  /// Begins to count.
  DtypeCounter();

  /// Ends counting.
  ~DtypeCounter();

  DtypeCounter(const DtypeCounter&) = delete;
  DtypeCounter& operator=(const DtypeCounter&) = delete;

  /// What was counted so far: ops that have ended.
  const DtypeReport& report() const { return report_; }

 private:
  DtypeReport report_;
};

}  // namespace halfstep::inspect
