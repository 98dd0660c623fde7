#pragma once
#include "halfstep/train/config/config.h"

#include <cstdint>

namespace halfstep::train {

/// MMEngine's `convert_to_iter_based: true` of schedules: makes one that counts epochs count steps,
/// so that the rate moves within an epoch. Its numbers (begin, end, milestones, step_size, T_max,
/// periods, total_iters, total_steps) are multiplied by an epoch's steps, `batches` over
/// `accumulative_counts` (rounded down), and the entry then says so itself: that is what the run
/// saves. As in MMEngine ExponentialLR's gamma stays, and so acts in each step.
///
/// Throws UsageError with file and line for a schedule whose numbers are not known, for one that
/// counts steps already, and with several optimizers, whose steps differ.
void convert_to_iter_based(Config& config, int64_t batches, int64_t accumulative_counts,
                           bool several_optimizers);

}  // namespace halfstep::train
