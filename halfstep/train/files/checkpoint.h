#pragma once
#include "halfstep/train/files/safetensors.h"

#include <filesystem>

#include <nlohmann/json.hpp>

namespace halfstep::train {

/// Everything a run needs to go on: tensors by name ("model.fc1.weight",
/// "optimizer.fc1.weight.exp_avg", "rng.cpu") and the rest as JSON.
///
/// On disk it is one safetensors file, the JSON in its metadata under "halfstep", so that one
/// rename makes the whole checkpoint appear and Python's safetensors opens it. Equal checkpoints
/// give equal bytes. JSON keeps every double to the bit but knows no NaN or infinity.
struct Checkpoint {
  static constexpr int format_version = 1;

  NamedTensors tensors;  ///< by name, on any device
  /// Everything else: counters, scaler, schedulers, hooks, settings.
  nlohmann::json state = nlohmann::json::object();

  /// Writes the file whole or not at all (see atomic_file.h). Tensors may be on any device and
  /// non-contiguous; syncs with their devices. Throws EnvironmentError where the disk refuses; an
  /// older file of that name then still stands.
  void save(const std::filesystem::path& file) const;

  /// Reads a file into CPU tensors. Throws EnvironmentError for a file that is missing, truncated,
  /// no checkpoint, or of a newer format version; sizes are checked before memory is asked for.
  static Checkpoint load(const std::filesystem::path& file);

  /// Whether a safetensors file with this metadata is a checkpoint.
  static bool is_one(const std::map<std::string, std::string>& metadata);
};

}  // namespace halfstep::train
