#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <vector>

namespace halfstep::train {

/// The checkpoints of a work dir (checkpoints/step_N.safetensors), by number; empty where there is
/// no such folder. Throws EnvironmentError where it can't be read.
std::vector<std::filesystem::path> list_checkpoints(const std::filesystem::path& work_dir);

/// The folder of a run: config.yaml (resolved), log.jsonl, vis_data/scalars.json,
/// checkpoints/step_N.safetensors and best_METRIC_step_N.safetensors beside them.
class WorkDir {
 public:
  /// Makes the folder and holds it for this object's life. Throws EnvironmentError where it can't
  /// be made or written to, or where another run holds it.
  explicit WorkDir(std::filesystem::path root);

  /// Moves an earlier run's files to previous_1, previous_2, …, so that a new run never mixes with
  /// it. Returns where to, or nothing where the folder held no checkpoints.
  std::optional<std::filesystem::path> put_earlier_run_aside();

  /// The same for the checkpoints after a step alone: a run that goes on from that step makes its
  /// own.
  std::optional<std::filesystem::path> put_later_checkpoints_aside(int64_t step);

  /// The folder itself, and its files: the resolved config, the log, one checkpoint for a step.
  const std::filesystem::path& root() const { return root_; }
  std::filesystem::path config_file() const { return root_ / "config.yaml"; }
  std::filesystem::path log_file() const { return root_ / "log.jsonl"; }
  std::filesystem::path precision_report_file() const { return root_ / "precision_report.json"; }
  std::filesystem::path report_file() const { return root_ / "report.html"; }
  std::filesystem::path scalars_file() const { return root_ / "vis_data" / "scalars.json"; }
  std::filesystem::path checkpoint_folder() const { return root_ / "checkpoints"; }
  std::filesystem::path checkpoint_file(int64_t step) const;

  /// The checkpoints there are, oldest first.
  std::vector<std::filesystem::path> checkpoints() const { return list_checkpoints(root_); }

 private:
  std::filesystem::path make_aside_folder() const;

  std::filesystem::path root_;
  std::shared_ptr<const int> lock_;  // a descriptor of the folder
};

}  // namespace halfstep::train
