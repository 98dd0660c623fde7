#pragma once
#include <cstdint>

#include <nlohmann/json.hpp>

namespace halfstep::train {

/// Where a run stands. All counts are from its beginning, over every resume.
struct Progress {
  int64_t epoch = 0;          ///< finished epochs; the running one is number epoch + 1 for people
  int64_t batch = 0;          ///< finished batches of the running epoch
  int64_t step = 0;           ///< finished training steps, skipped ones included
  int64_t skipped_steps = 0;  ///< steps the loss scale skipped because a gradient overflowed
  bool val_due = false;       ///< a validation comes before the next step

  friend bool operator==(const Progress&, const Progress&) = default;
  NLOHMANN_DEFINE_TYPE_INTRUSIVE(Progress, epoch, batch, step, skipped_steps, val_due)
};

}  // namespace halfstep::train
