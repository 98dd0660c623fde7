#pragma once
#include "halfstep/train/files/checkpoint.h"
#include "halfstep/train/loop/run_parts.h"

#include <filesystem>
#include <optional>

namespace halfstep::train {

class Trainer;

/// Everything a run needs to go on with the same bits: model, optimizer, scaler, schedulers,
/// counters with the sampler's position, random generators. Syncs.
Checkpoint collect_state(const Trainer& trainer);

/// What a resumed run starts from.
struct ResumePoint {
  std::filesystem::path source;
  Checkpoint checkpoint;
};

/// Loads what `options` asks to resume from; nothing where a new run is asked for or the work dir
/// has no checkpoint yet. Sets the seed to the checkpoint's. Throws UsageError where --seed names
/// another one.
std::optional<ResumePoint> find_resume_point(RunOptions& options);

/// Puts a checkpoint's state into a freshly built run. Throws UsageError where it was written for
/// another model or another number of examples or batches.
void restore_state(Trainer& trainer, const ResumePoint& from);

}  // namespace halfstep::train
