#pragma once
#include "halfstep/train/data/dataset.h"

#include <memory>

namespace halfstep::train {

/// How a Loader makes batches.
struct LoaderOptions {
  int64_t batch_size = 64;  ///< examples, at least 1
  bool shuffle = false;     ///< a new order in every epoch
  bool drop_last = false;   ///< leave out a last batch that is not full
  uint64_t seed = 0;        ///< of the order, together with the epoch
};

/// Batches of one epoch by number. The order of an epoch depends on (seed, epoch) only, so a run is
/// resumed in mid-epoch by the number of the next batch. Never draws from LibTorch's default
/// generators. Not thread-safe.
///
///   Loader loader(dataset, {.batch_size = 64, .shuffle = true, .seed = 1});
///   loader.set_epoch(epoch);
///   for (int64_t i = 0; i < loader.num_batches(); ++i) { auto batch = loader.batch(i); … }
class Loader {
 public:
  /// Starts in epoch 0. Throws UsageError where there would be no batch.
  Loader(std::shared_ptr<const Dataset> dataset, LoaderOptions options);

  /// Chooses the order of an epoch (counted from 0). Cheap where it is the present one.
  void set_epoch(int64_t epoch);

  /// Batches in an epoch; the last one may be smaller unless drop_last.
  int64_t num_batches() const;

  /// The batch of a number in [0, num_batches()), on the CPU.
  Batch batch(int64_t number) const;

  const Dataset& dataset() const { return *dataset_; }
  const LoaderOptions& options() const { return options_; }

 private:
  std::shared_ptr<const Dataset> dataset_;
  LoaderOptions options_;
  int64_t epoch_ = -1;
  at::Tensor order_;
};

}  // namespace halfstep::train
