#pragma once
#include "halfstep/train/loop/run_parts.h"

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace halfstep::train {

/// What was typed for `halfstep doctor`.
struct DoctorOptions {
  std::string config;                  ///< empty: none
  std::vector<std::string> overrides;  ///< --cfg-options
  std::string device;                  ///< as typed
  int64_t steps = 20;                  ///< of each trial, after those that warm up
  std::string trial_dtype;             ///< of the process of a trial; see run_trial
  std::filesystem::path trial_folder;  ///< of that process: for scratch and trial.json
};

/// `halfstep doctor`: says what the versions and the machine are, how fast it multiplies,
/// convolves and copies in float32, bfloat16 and float16, with a config what its steps take in
/// each, and which dtype to use. Returns the exit status: 1 where a config ran in no precision,
/// 128 + N where signal N stopped the trials.
int doctor_command(const DoctorOptions& doctor, const RunOptions& options);

}  // namespace halfstep::train
