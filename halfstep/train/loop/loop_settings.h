#pragma once
#include "halfstep/train/config/config.h"

#include <cstdint>
#include <utility>
#include <vector>

namespace halfstep::train {

/// What `train_cfg` says about the loop, in MMEngine's words.
///
///   train_cfg: {max_epochs: 10, val_interval: 2}                     by epochs
///   train_cfg: {by_epoch: false, max_iters: 5000, val_interval: 500} by iterations
///   train_cfg: {type: IterBasedTrainLoop, max_iters: 5000}           the same
///   train_cfg: {max_epochs: 30, val_interval: 5, dynamic_intervals: [[20, 1]]}   each of the last
struct LoopSettings {
  bool by_epoch = true;
  int64_t length = 1;        ///< max_epochs, or max_iters: skipped steps count
  int64_t val_begin = 1;     ///< the first epoch, or iteration, with a validation
  int64_t val_interval = 1;  ///< epochs, or iterations, from one to the next

  /// From which epoch, or iteration, on another interval holds, in rising order.
  std::vector<std::pair<int64_t, int64_t>> dynamic_intervals = {};

  /// Reads the mapping. Throws UsageError with file and line for both `type` and `by_epoch`, and
  /// for counts below 1.
  static LoopSettings read(Config& train_cfg);

  /// Whether a validation follows once `done` epochs, or iterations, are done: always after the
  /// last.
  bool validates_after(int64_t done) const;

  /// Training steps of the whole run, of `batches` batches an epoch.
  int64_t steps(int64_t batches) const { return by_epoch ? length * batches : length; }
};

}  // namespace halfstep::train
