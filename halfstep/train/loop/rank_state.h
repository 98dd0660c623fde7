#pragma once
#include "halfstep/train/files/checkpoint.h"
#include "halfstep/train/loop/progress.h"

#include <filesystem>
#include <optional>

namespace halfstep::train {

class Trainer;

/// What a run of several ranks needs beside the first one's state: their number, the random
/// generators of the others ("rank_1.rng.cpu", "rank_1.rng.cuda"), and, where an accumulation is
/// under way, the mean of all ranks' gradients so far in the place of the first one's. All ranks
/// call it. One of a single rank needs nothing.
void collect_rank_state(const Trainer& trainer, Checkpoint& checkpoint);

/// How the ranks that wrote a checkpoint divided the data.
struct RankLayout {
  int ranks = 1;
  int64_t batch_size = 1;  ///< of each rank
  int64_t batches = 1;     ///< of an epoch
  bool changed = false;    ///< in the run's past already

  int64_t examples_in_a_step() const { return ranks * batch_size; }
  friend bool operator==(const RankLayout&, const RankLayout&) = default;
};

/// The layout that a checkpoint's state was written in, and that of a run.
RankLayout layout_of(const nlohmann::json& state, bool drop_last);
RankLayout layout_of(const Trainer& trainer);

/// Where a run of another layout stands that goes on from `then`: after the same examples of the
/// epoch, or, where these are no whole number of its batches, after fewer. Says on standard error
/// what could not be kept.
Progress translate(const Progress& progress, const RankLayout& then, const RankLayout& now,
                   const std::filesystem::path& source);

/// Sets the generators of ranks but the first, which has its own by then: to those saved where the
/// number of ranks is the same, else to new ones.
void restore_rank_state(Trainer& trainer, const Checkpoint& checkpoint);

}  // namespace halfstep::train
