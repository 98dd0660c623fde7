#pragma once
#include "halfstep/inspect/precision_report.h"

#include <memory>

namespace torch::nn {
class Module;
}

namespace halfstep::inspect {

namespace detail {
class OpRecordingGuard;
class PrecisionRecording;
}  // namespace detail

/// Records, while it lives, which op ran in which dtype and what was cast, forward and backward, by
/// module: the answer to "I turned AMP on and nothing happened".
///
///   {
///     const halfstep::inspect::PrecisionRecorder recorder(*net);
///     torch::Tensor loss;
///     {
///       const halfstep::Autocast autocast(device.type());
///       loss = F::cross_entropy(net->forward(x), y);
///     }
///     loss.backward();
///     std::cout << recorder.report();
///   }
///
/// Asked of LibTorch's dispatcher, as by DtypeCounter, and with the same callback. C++ modules have
/// no hooks: an op is of the module whose parameter or buffer it takes (also a view of one), as for
/// OpPolicy::module, else of the innermost ModuleScope, else of nobody. Ops of backward() are told
/// apart and have no module. The optimizer's step takes parameters too: end before it.
///
/// A property of the thread: ops on autograd's threads and where halfstep::propagate carries it
/// count, those of other threads don't. While a recorder lives inside another, the outer one
/// records nothing. Costs some microseconds an op, on every thread about one, and holds an op's
/// outputs until the op ends; nothing while none lives. Never syncs. Ends on the thread that made
/// it, before what was made before it; else it says so on standard error and ends the program. The
/// first one of a process reads LibTorch's autocast lists, which no other thread may use meanwhile.
class [[nodiscard]] PrecisionRecorder {
 public:
  /// Begins to record; modules are known by ModuleScopes with a path alone.
  PrecisionRecorder();
  /// Begins to record, by modules of `root` as they are now.
  explicit PrecisionRecorder(const torch::nn::Module& root);
  /// Ends it.
  ~PrecisionRecorder();
  PrecisionRecorder(const PrecisionRecorder&) = delete;
  PrecisionRecorder& operator=(const PrecisionRecorder&) = delete;

  /// Leaves out what begins from pause() to resume(), an optimizer's step for one.
  void pause();
  void resume();

  /// What was recorded so far: ops that have ended.
  PrecisionReport report() const;

 private:
  explicit PrecisionRecorder(const torch::nn::Module* root);
  std::shared_ptr<detail::PrecisionRecording> recording_;
  std::unique_ptr<detail::OpRecordingGuard> guard_;
};

}  // namespace halfstep::inspect
