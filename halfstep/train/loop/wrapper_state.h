#pragma once
#include "halfstep/train/files/checkpoint.h"

#include <cstdint>

#include <nlohmann/json.hpp>

namespace halfstep::train {

class Trainer;

/// What became of a wrapper's updates. Counted from the run's beginning, over every resume.
struct WrapperCounts {
  int64_t updates = 0;        ///< steps of its optimizer, skipped ones included
  int64_t skipped_steps = 0;  ///< of these, by its loss scale

  friend bool operator==(const WrapperCounts&, const WrapperCounts&) = default;
};

/// Puts the state of each wrapper into `checkpoint`: optimizer, scale, schedules, counts, and,
/// where an accumulation is under way, the gradients so far as tensors "gradient.<parameter>". One
/// wrapper's stands where it always stood ("optimizer.…", state["scaler"], …); each of several has
/// its tensors under "optimizers.<name>.…" and the rest under state["wrappers"][name].
void collect_wrappers(const Trainer& trainer, Checkpoint& checkpoint);

/// Makes the wrappers fall back that had done so: first of all, as it drops gradients.
void restore_fall_backs(Trainer& trainer, const nlohmann::json& state);

/// Gives each wrapper its state back. A checkpoint of a run before there were counts has as many
/// updates as steps. Throws EnvironmentError where the checkpoint does not hold the state of such a
/// run.
void restore_wrappers(Trainer& trainer, const Checkpoint& checkpoint);

}  // namespace halfstep::train
