#pragma once
#include "halfstep/scaling/step_result.h"
#include "halfstep/train/data/dataset.h"
#include "halfstep/train/hooks/priority.h"
#include "halfstep/train/metrics/metric.h"

#include <exception>
#include <filesystem>

#include <nlohmann/json.hpp>

namespace halfstep::train {

class Trainer;
struct Checkpoint;

// clang-format off
/// Behaviour added to a run from outside its loop. The built-in ones (logger, scheduler,
/// checkpoint) are hooks too. The points are MMEngine's.
///
///   struct StopAtAccuracy : halfstep::train::Hook {
///     void after_val_epoch(halfstep::train::Trainer& trainer, const halfstep::train::Metrics& metrics) override {
///       const auto accuracy = metrics.find("accuracy");
///       if (accuracy && *accuracy > 0.9) trainer.request_stop();
///     }
///   };
///
/// Called on the thread that runs the loop, at each point in the order of priorities. What a hook
/// throws ends the run. A run by epochs:
///
///   before_run
///   each epoch:   before_train_epoch
///                 each batch:  before_train_iter   after_backward   after_outcome   after_train_iter
///                 after_train_epoch
///                 with validation:  before_val_epoch, each batch: before_val_iter, after_val_iter   after_val_epoch
///   after_run
///
/// A run by iterations is, as in MMEngine, one big epoch with validations between its steps.
///
/// Differences from MMEngine: `progress()` counts the step, or epoch, that ended already in its
/// after_… points. A checkpoint that a hook asks for (Trainer::request_checkpoint) is written once
/// all hooks of the point have run, so that it holds what they did whatever their priorities.
// clang-format on
class Hook {
 public:
  virtual ~Hook() = default;

  /// Where it runs unless its config, or register_hook(), says otherwise.
  virtual int64_t priority() const { return priority::normal; }

  /// Once, before the first step of this process. A stop that is requested here comes before any
  /// step.
  virtual void before_run(Trainer&) {}
  /// At the end, also of a run that a signal or a hook stopped; not after an error. What it changes
  /// in the run is not saved any more.
  virtual void after_run(Trainer&) {}
  /// The run ends by this exception, in the place of after_run(). Nothing is to be asked of the
  /// device, which may be what failed. What is thrown here is dropped: the first one counts.
  /// Difference from MMEngine, which tells no hook.
  virtual void on_exception(Trainer&, const std::exception& error) { (void)error; }

  /// Before the first step of an epoch, and again where a resumed run goes on within one.
  virtual void before_train_epoch(Trainer&) {}
  /// After an epoch's last step, before its validation.
  virtual void after_train_epoch(Trainer&) {}

  /// Before a training step; the batch is the loader's, on the CPU.
  virtual void before_train_iter(Trainer&, const Batch&) {}
  /// Between backward and update: gradients are there, times the loss scale. With several
  /// optimizers, before the update of each, which is Trainer::active_wrapper(). Not called for an
  /// iteration that only accumulates.
  virtual void after_backward(Trainer&) {}
  /// Once it is known whether an update was taken or skipped: on the CPU before that step's
  /// after_train_iter, on a GPU after the next step's backward, or in Trainer::settle(). Not called
  /// for an iteration that only accumulates. With several optimizers, for each update of
  /// Trainer::active_wrapper(). Never waits for the device.
  virtual void after_outcome(Trainer&, const StepResult&) {}
  /// After each training step, skipped ones included. On a GPU whether it was may not be known
  /// yet: Trainer::settle() learns it, and waits.
  virtual void after_train_iter(Trainer&, const Batch&) {}

  /// Before a validation.
  virtual void before_val_epoch(Trainer&) {}
  /// After a validation, with its results: none where a stop broke it off (it is made again when
  /// the run is resumed).
  virtual void after_val_epoch(Trainer&, const Metrics&) {}
  /// Around each batch of a validation, `number` from 0.
  virtual void before_val_iter(Trainer&, int64_t number, const Batch&) { (void)number; }
  virtual void after_val_iter(Trainer&, int64_t number, const Batch&) { (void)number; }

  /// May change what is about to be written. The tensors are the run's own: replace, don't write.
  virtual void before_save_checkpoint(Trainer&, Checkpoint&) {}
  /// Once the file is on disk.
  virtual void after_save_checkpoint(Trainer&, const std::filesystem::path&) {}
  /// May change what was read before the run takes it: for a resume (Trainer::is_resuming()) or for
  /// its weights alone (load_from).
  virtual void after_load_checkpoint(Trainer&, Checkpoint&) {}

  /// What a resumed run needs of this hook, kept in each checkpoint: finite numbers and UTF-8
  /// texts. Null, the default: nothing.
  virtual nlohmann::json state() const { return nullptr; }
  /// Takes back what state() gave, before before_run().
  virtual void load_state(const nlohmann::json&) {}
};

}  // namespace halfstep::train
