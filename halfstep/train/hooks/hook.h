#pragma once
#include <nlohmann/json.hpp>

namespace halfstep::train {

class Trainer;

// clang-format off
/// Behaviour added to a run from outside its loop. The built-in ones (logger, progress bar,
/// checkpoint) are hooks too.
///
///   struct StopAtAccuracy : halfstep::train::Hook {
///     void after_epoch(halfstep::train::Trainer& trainer) override {
///       const auto& evaluation = trainer.evaluation();
///       if (evaluation && evaluation->accuracy > 0.9) trainer.request_stop();
///     }
///   };
///
/// Called on the thread that runs the loop: the logger first, then those of custom_hooks in their
/// order, the checkpoint hook last, so that a checkpoint holds what the others did. What a hook
/// throws ends the run.
// clang-format on
class Hook {
 public:
  virtual ~Hook() = default;
  /// Once, before the first step of this process. A stop that is requested here comes before any
  /// step.
  virtual void before_run(Trainer&) {}
  /// After each training step, skipped ones included. On a GPU whether it was may not be known
  /// yet: Trainer::settle() learns it, and waits.
  virtual void after_step(Trainer&) {}
  /// After the epoch's evaluation and scheduler step.
  virtual void after_epoch(Trainer&) {}
  /// At the end, also of a run that a signal or a hook stopped; not after an error. What it changes
  /// in the run is not saved any more.
  virtual void after_run(Trainer&) {}

  /// What a resumed run needs of this hook, kept in each checkpoint: finite numbers and UTF-8
  /// texts. Null, the default: nothing.
  virtual nlohmann::json state() const { return nullptr; }
  /// Takes back what state() gave, before before_run().
  virtual void load_state(const nlohmann::json&) {}
};

}  // namespace halfstep::train
