#pragma once
#include "halfstep/inspect/dtype_counter.h"
#include "halfstep/inspect/overflow_tracer.h"
#include "halfstep/inspect/precision_recorder.h"
#include "halfstep/scaling/grad_scaler.h"
#include "halfstep/train/files/checkpoint.h"
#include "halfstep/train/hooks/message_hub.h"
#include "halfstep/train/loop/evaluate.h"
#include "halfstep/train/loop/late_outcome.h"
#include "halfstep/train/loop/progress.h"
#include "halfstep/train/loop/ranks.h"
#include "halfstep/train/loop/run_parts.h"
#include "halfstep/train/loop/run_state.h"
#include "halfstep/train/loop/work_dir.h"
#include "halfstep/train/loop/wrapper_state.h"

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace halfstep::train {

/// One training run from a config.
///
///   Config config = Config::load("configs/mnist_mlp.yaml");
///   Trainer trainer(config, RunOptions{.work_dir = "work_dirs/mnist_mlp", .amp = true});
///   trainer.train();
///
/// The whole config is read and checked, and every part built, at construction. On one CPU
/// thread a resumed run ends with the same bits as an unbroken one (same CPU kind and LibTorch).
/// Not thread-safe.
///
/// With RunOptions::group every rank makes a Trainer with the same config, inside of group.run().
/// They train together: each takes its part of each batch, gradients are averaged, validations
/// measured over all examples, and a stop that one is asked for stops all after the same step. Only
/// the first one writes checkpoints and the work dir's other files.
class Trainer {
 public:
  /// Builds the run; resumes where `options` says so. Checkpoints in the work dir that are not this
  /// run's past are moved aside. Throws UsageError for a wrong config or one that may not resume
  /// the checkpoint, EnvironmentError for data, checkpoints or a work dir that can't be used.
  Trainer(Config config, const RunOptions& options);
  // Its wrappers tell it of their updates.
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  /// How train() ended: at max_epochs or max_iters, or before because a signal or a hook asked for
  /// it.
  enum class Outcome { finished, stopped };

  /// Trains to max_epochs or max_iters, or until SIGINT, SIGTERM or a hook's request_stop(); a
  /// stopped run has saved a checkpoint. Throws UsageError where
  ///   - the loss is not finite and the step was taken all the same, or 10 steps in a row were
  ///     skipped (on CUDA the loss is read every 200 steps, before each save and after 10 skips),
  ///   - overflows go on at the minimum loss scale and `at_min_scale` is stop,
  ///   - the run ends and not one step was taken,
  ///   - LibTorch refuses a step; out of memory is an EnvironmentError.
  Outcome train();

  /// Asks the loop to stop: after the step at hand, in the middle of an evaluation, which is made
  /// again when the run is resumed, or, from before_run(), before the first step.
  void request_stop() { stop_requested_ = true; }

  /// Learns what became of the last step, where that lies on a GPU yet (a fused optimizer with a
  /// loss scale), and takes it into account: counts the step as taken or skipped, moves the
  /// schedule, looks for overflows and losses that end the run, and then throws as train() does.
  /// Syncs where it has something to learn. The loop calls it before the next step's update, an
  /// evaluation, a save and the fall-back: no step ever runs with a rate that counts a skipped one.
  void settle();

  /// Lets a wrapper go on in the next wider precision without a loss scale; see
  /// AmpSettings::fall_back. The loop does it where `at_min_scale` is fall_back, and a resumed run
  /// does it again.
  void fall_back(size_t wrapper = 0);
  bool fell_back(size_t wrapper = 0) const { return runs_[wrapper].fell_back; }

  /// Saves the present state into the work dir, unless it is there already, and returns the file.
  /// Syncs. Throws UsageError, and writes nothing, where the loss or a trained weight is not
  /// finite. A hook asks for it with request_checkpoint(), so that hooks after it are saved too.
  std::filesystem::path save_checkpoint();

  /// Has the present state saved once all hooks of the present point (after_train_iter,
  /// after_train_epoch, after_val_epoch; of any other point: the next of these) have run: into the
  /// work dir's file of this step or, with a `name`, into that file beside it.
  void request_checkpoint(const std::string& name = "");

  /// Adds a hook behind those of its priority.
  void register_hook(std::unique_ptr<Hook> hook, std::optional<int64_t> priority = std::nullopt) {
    parts_.hooks.add(std::move(hook), priority);
  }

  /// What the config named, built.
  RunParts& parts() { return parts_; }
  const RunParts& parts() const { return parts_; }
  /// In after_backward and after_outcome the wrapper it is about; else the first one.
  WrapperParts& active_wrapper() { return parts_.wrappers[active_]; }
  const WrapperParts& active_wrapper() const { return parts_.wrappers[active_]; }
  /// In after_outcome the step whose update it is about (from 1); a GPU tells it late.
  int64_t outcome_step() const { return runs_[active_].step; }
  /// That wrapper's scaler. Disabled where it has no loss scale.
  GradScaler& scaler();
  const GradScaler& scaler() const;
  /// What became of a wrapper's updates, as of those that are settled.
  WrapperCounts& counts(size_t wrapper) { return runs_[wrapper].counts; }
  const WrapperCounts& counts(size_t wrapper) const { return runs_[wrapper].counts; }
  /// Held by this run alone while the trainer lives.
  const WorkDir& work_dir() const { return work_dir_; }
  c10::Device device() const { return device_; }
  /// The processes of the run. Hooks of all of them are called at the same points; what writes
  /// files asks is_first(), or writes into work_dir(), which is a folder of its own for each other
  /// one.
  const Ranks& ranks() const { return ranks_; }
  bool is_first() const { return ranks_.is_first(); }
  /// Whether the run went on with another number of ranks somewhere in its past.
  bool ranks_changed() const { return ranks_changed_; }
  void set_ranks_changed() { ranks_changed_ = true; }
  /// Where the run stands; whether the last step was skipped may be missing before settle().
  const Progress& progress() const { return progress_; }
  Progress& progress() { return progress_; }
  /// Whether it has got to the end of what the config asks for, validation included.
  bool is_finished() const;
  /// Steps of the whole run.
  int64_t total_steps() const { return parts_.loop.steps(parts_.train_loader->num_batches()); }
  /// Numbers the run's parts tell each other and the log.
  MessageHub& message_hub() { return message_hub_; }
  const MessageHub& message_hub() const { return message_hub_; }

  /// The loss of the last step ("loss" of log_vars()), unscaled, detached, on the device: reading
  /// it syncs. Undefined where the model gives none.
  const torch::Tensor& loss() const { return loss_; }
  /// What the model's last train_step gave to be logged, on the device: reading it syncs.
  const LogVars& log_vars() const { return log_vars_; }
  /// The first wrapper's rate (WrapperParts::learning_rate), as of the steps that are settled: the
  /// next step's. The message hub has that of the last one as "train/lr" (and "train/base_lr").
  double learning_rate() const;
  /// Of the last validation, where there is data for it.
  const std::optional<Evaluation>& evaluation() const { return evaluation_; }
  /// In which dtype the layers and the loss ran, counted from the dispatcher over counted_steps()
  /// of this process's steps.
  const inspect::DtypeReport& dtypes() const { return dtypes_; }
  int64_t counted_steps() const { return counted_steps_; }
  /// What ran in which precision in this process's second step (the first one has more to set up);
  /// none before it, or where RunOptions don't ask for it. Also in the work dir, as JSON.
  const std::optional<inspect::PrecisionReport>& precision_report() const {
    return precision_report_;
  }
  /// Has each op of the model's steps looked at for inf and NaN; for hooks, in before_run(). False
  /// where another hook asked already.
  bool trace_overflows() { return !std::exchange(traces_overflows_, true); }
  /// Then the tracer of the run, which looks away during updates; else, and outside of train(),
  /// null. OverflowTraceHook ends its steps.
  inspect::OverflowTracer* overflow_tracer() { return overflow_tracer_; }
  /// Steps since construction.
  int64_t steps_of_this_process() const { return progress_.step - first_step_; }
  /// The signal that stopped the run, or 0.
  int stop_signal() const { return stop_signal_; }
  /// True while a checkpoint is read to go on from, not for its weights alone.
  bool is_resuming() const { return resume_point_.has_value(); }
  /// The last checkpoint of a step that this process saved, or found saved; empty for none.
  const std::filesystem::path& last_saved() const { return last_saved_; }
  /// What was resumed from, and where checkpoints that are not this run's past went, if anything.
  const std::filesystem::path& resumed_from() const { return resumed_from_; }
  const std::optional<std::filesystem::path>& put_aside() const { return put_aside_; }

 private:
  using Stop = std::function<bool()>;

  /// What the loop keeps of a wrapper.
  struct WrapperRun {
    LateOutcome outcome;
    WrapperCounts counts;
    int64_t step = 0;  // of the last update
    int64_t skipped_in_a_row = 0;
    bool fell_back = false;
  };

  void resume();
  Outcome run();
  bool train_by_epoch(const Stop& stop);
  bool train_by_iter(const Stop& stop);
  void run_iter();
  void train_step(const Batch& batch);
  void finish_epoch();
  void finish_big_epoch();
  bool validate(const Stop& stop);
  void save_requested();
  void write_checkpoint(const std::filesystem::path& file);
  std::string place() const;
  void check_numbers() const;
  void check_weights() const;
  void check_any_step_taken() const;
  bool check_overflows(size_t wrapper);  // true where it fell back
  void observe(size_t wrapper);
  void before_update(size_t wrapper);
  void after_update(size_t wrapper, const StepResult& result);
  bool take_outcome(size_t wrapper);
  void observe_ops(bool observe);
  int64_t skipped_in_a_row() const;

  c10::Device device_;
  Ranks ranks_;
  bool ranks_changed_ = false;
  std::filesystem::path load_from_;
  std::optional<ResumePoint> resume_point_;
  RunParts parts_;
  GradScaler no_scaler_;
  WorkDir work_dir_;
  Progress progress_;
  MessageHub message_hub_;
  std::vector<WrapperRun> runs_;  // of each wrapper
  size_t active_ = 0;
  int64_t first_step_ = 0;
  torch::Tensor loss_;
  LogVars log_vars_;
  std::optional<Evaluation> evaluation_;
  inspect::DtypeReport dtypes_;
  int64_t counted_steps_ = 0;
  bool counts_dtypes_ = false;  // of the step at hand
  std::optional<inspect::DtypeCounter> dtype_counter_;
  bool wants_precision_report_;
  std::optional<inspect::PrecisionReport> precision_report_;
  std::optional<inspect::PrecisionRecorder> precision_recorder_;  // of the step at hand
  bool traces_overflows_ = false;
  inspect::OverflowTracer* overflow_tracer_ = nullptr;
  bool stop_requested_ = false;
  int stop_signal_ = 0;
  std::optional<Progress> saved_;
  std::filesystem::path last_saved_;
  std::vector<std::string> requested_;  // names of checkpoints; empty: the step's own
  std::filesystem::path resumed_from_;
  std::optional<std::filesystem::path> put_aside_;
};

}  // namespace halfstep::train
