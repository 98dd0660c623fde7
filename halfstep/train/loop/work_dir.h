#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

namespace halfstep::train {

/// The checkpoints of a work dir, oldest first; empty where there is no such folder.
std::vector<std::filesystem::path> list_checkpoints(const std::filesystem::path& work_dir);

/// The folder of a run: config.yaml (resolved), log.jsonl, checkpoints/step_N.safetensors.
class WorkDir {
 public:
  /// Makes the folder. Throws EnvironmentError where it can't be made or written to.
  explicit WorkDir(std::filesystem::path root);

  /// Moves an earlier run's files to previous_1, previous_2, …, so that a new run never mixes with
  /// it. Returns where to, or nothing where the folder held no run.
  std::optional<std::filesystem::path> put_earlier_run_aside();

  const std::filesystem::path& root() const { return root_; }
  std::filesystem::path config_file() const { return root_ / "config.yaml"; }
  std::filesystem::path log_file() const { return root_ / "log.jsonl"; }
  std::filesystem::path checkpoint_file(int64_t step) const;

  /// The checkpoints there are, oldest first.
  std::vector<std::filesystem::path> checkpoints() const { return list_checkpoints(root_); }

 private:
  std::filesystem::path root_;
};

}  // namespace halfstep::train
