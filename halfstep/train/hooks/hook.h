#pragma once

namespace halfstep::train {

class Trainer;

/// Behaviour added to a run from outside its loop. The built-in ones (logger, progress bar,
/// checkpoint) are hooks too.
///
///   struct StopAtAccuracy : halfstep::train::Hook {
///     void after_epoch(halfstep::train::Trainer& t) override { if (t.evaluation()->accuracy > 0.9)
///     t.request_stop(); }
///   };
///
/// Called in the order of the config, built-in ones first, on the thread that runs the loop. What a
/// hook throws ends the run.
class Hook {
 public:
  virtual ~Hook() = default;
  virtual void before_run(Trainer&) {}
  virtual void after_step(Trainer&) {}
  /// After the epoch's evaluation and scheduler step.
  virtual void after_epoch(Trainer&) {}
  /// At the end, also of a run that a signal or a hook stopped; not after an error.
  virtual void after_run(Trainer&) {}
};

}  // namespace halfstep::train
