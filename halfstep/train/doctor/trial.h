#pragma once
#include "halfstep/train/config/config.h"
#include "halfstep/train/loop/run_parts.h"

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include <c10/core/ScalarType.h>

namespace halfstep::train {

/// What the steps of a config took in one precision.
struct Trial {
  double seconds = 0;      ///< a step, without its data: the median
  int64_t memory = 0;      ///< MiB at most: on a GPU of tensors, else of the process
  int64_t steps = 0;       ///< that were measured
  int64_t skipped = 0;     ///< of these and those that warmed up, because a gradient overflowed
  std::string error = {};  ///< why there is none of this; else empty
};

/// Steps that are not measured: they set things up.
inline constexpr int64_t trial_warm_up = 5;

/// Has every optimizer of a config train in `dtype`: float32, or autocast to float16 or bfloat16.
void set_precision(Config& config, c10::ScalarType dtype);

/// Trains a config in a precision for `steps` steps after those that warm up, or as long as the run
/// is, in this process, without validations, and writes what it took into `file`, as JSON. The work
/// dir of `options` is for scratch: the log is written there, but no checkpoint. Throws as a
/// Trainer does.
void run_trial(Config config, const RunOptions& options, c10::ScalarType dtype, int64_t steps,
               const std::filesystem::path& file);

/// The same by a process of its own, as memory is counted for a whole process: `command` is the
/// program and its words, which must call run_trial() with `file`. A run that fails is a Trial with
/// an error: the last one that the process printed, or how it ended. Kills it where `stop`, which
/// is asked ten times a second, says so.
Trial try_in_process(const std::vector<std::string>& command, const std::filesystem::path& file,
                     const std::function<bool()>& stop);

}  // namespace halfstep::train
