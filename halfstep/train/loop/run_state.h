#pragma once
#include "halfstep/train/files/checkpoint.h"
#include "halfstep/train/loop/run_parts.h"

#include <filesystem>
#include <optional>

namespace halfstep::train {

class Trainer;

/// Everything a run needs to go on with the same bits: model, optimizer, scaler, schedulers, hooks,
/// counters with the sampler's position, random generators; and its settings, for a resumed run to
/// compare. Syncs.
Checkpoint collect_state(const Trainer& trainer);

/// What a resumed run starts from.
struct ResumePoint {
  std::filesystem::path source;
  Checkpoint checkpoint;
  uint64_t seed = 0;  ///< the checkpoint's
};

/// Loads what `options` asks to resume from: its file, else the newest of the work dir, else
/// `load_from` where that is a checkpoint. Nothing where a new run is asked for or there is none of
/// these. Throws EnvironmentError for a file that is no checkpoint of a run.
std::optional<ResumePoint> find_resume_point(const RunOptions& options,
                                             const std::filesystem::path& load_from);

/// Gives the model of a new run the weights of `file` (see load_weights.h), once hooks have had it
/// in hand, and warns of those that don't fit. Throws UsageError where none does, EnvironmentError
/// for a file that can't be read.
void load_initial_weights(Trainer& trainer, const std::filesystem::path& file);

/// Puts a checkpoint's state into a freshly built run, once hooks have had it in hand. Throws
/// UsageError where it was written with other settings (see settings.h), another number of
/// examples, or a hook that is gone; EnvironmentError where it does not hold the state of such a
/// run.
void restore_state(Trainer& trainer, ResumePoint& from);

}  // namespace halfstep::train
