#pragma once
#include "halfstep/inspect/dtype_counter.h"
#include "halfstep/scaling/grad_scaler.h"
#include "halfstep/train/files/checkpoint.h"
#include "halfstep/train/loop/evaluate.h"
#include "halfstep/train/loop/progress.h"
#include "halfstep/train/loop/run_parts.h"
#include "halfstep/train/loop/run_state.h"
#include "halfstep/train/loop/work_dir.h"

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

namespace halfstep::train {

/// One training run from a config.
///
///   Config config = Config::load("configs/mnist_mlp.yaml");
///   Trainer trainer(config, RunOptions{.work_dir = "work_dirs/mnist_mlp", .amp = true});
///   trainer.train();
///
/// The whole config is read and checked, and every part built, at construction. On the CPU a
/// resumed run ends with the same bits as an unbroken one (same CPU kind, thread count and
/// LibTorch). Not thread-safe.
class Trainer {
 public:
  /// Builds the run; resumes where `options` says so, else moves an earlier run in the work dir
  /// aside.
  Trainer(Config config, RunOptions options);

  enum class Outcome { finished, stopped };

  /// Trains to max_epochs, or until SIGINT, SIGTERM or a hook's request_stop(); a stopped run has
  /// saved a checkpoint. Throws UsageError where the loss is no longer finite and nothing scales
  /// it, or where the loss scale fell to zero.
  Outcome train();

  /// Asks the loop to stop after the step at hand.
  void request_stop() { stop_requested_ = true; }

  /// Saves the present state into the work dir, unless it is there already, and returns the file.
  /// Syncs.
  std::filesystem::path save_checkpoint();

  RunParts& parts() { return parts_; }
  const RunParts& parts() const { return parts_; }
  GradScaler& scaler() { return scaler_; }
  const GradScaler& scaler() const { return scaler_; }
  const WorkDir& work_dir() const { return work_dir_; }
  c10::Device device() const { return device_; }
  const Progress& progress() const { return progress_; }
  Progress& progress() { return progress_; }

  /// The loss of the last step, unscaled, detached, on the device: reading it syncs.
  const torch::Tensor& loss() const { return loss_; }
  /// The first group's rate.
  double learning_rate() const;
  /// Of the last finished epoch, where there is test data.
  const std::optional<Evaluation>& evaluation() const { return evaluation_; }
  /// In which dtype the layers and the loss ran, counted from the dispatcher over counted_steps()
  /// of this process's steps.
  const inspect::DtypeReport& dtypes() const { return dtypes_; }
  int64_t counted_steps() const { return counted_steps_; }
  int64_t steps_of_this_process() const { return progress_.step - first_step_; }
  /// The signal that stopped the run, or 0.
  int stop_signal() const { return stop_signal_; }
  /// What was resumed from, and where an earlier run went, if anything.
  const std::filesystem::path& resumed_from() const { return resumed_from_; }
  const std::optional<std::filesystem::path>& put_aside() const { return put_aside_; }

 private:
  void finish_epoch();
  void train_step(const Batch& batch);
  torch::Tensor forward(const Batch& batch);
  void check_numbers() const;

  c10::Device device_;
  std::optional<ResumePoint> resume_point_;
  RunParts parts_;
  GradScaler scaler_;
  WorkDir work_dir_;
  Progress progress_;
  int64_t first_step_ = 0;
  torch::Tensor loss_;
  std::optional<Evaluation> evaluation_;
  inspect::DtypeReport dtypes_;
  int64_t counted_steps_ = 0;
  bool stop_requested_ = false;
  int stop_signal_ = 0;
  std::optional<Progress> saved_;
  std::filesystem::path resumed_from_;
  std::optional<std::filesystem::path> put_aside_;
};

}  // namespace halfstep::train
