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
  int rank = 0;             ///< which part of each batch this process takes, of
  int ranks = 1;            ///< so many, each with batch_size examples
};

/// Batches of one epoch by number. The order of an epoch depends on (seed, epoch) only, so a run is
/// resumed in mid-epoch by the number of the next batch. Never draws from LibTorch's default
/// generators. Not thread-safe.
///
/// Several ranks go through the same batches of ranks x batch_size examples together, each taking
/// every ranks-th one of each: those a single process would take with that batch size. No example
/// is taken twice or left out. Of a last batch that is not full ranks get one example more or less
/// than others; weight() makes up for it in a mean over the ranks. Difference from PyTorch's
/// DistributedSampler, which repeats examples until all ranks have as many.
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

  /// Batches in an epoch, the same number on all ranks; the last one may be smaller unless
  /// drop_last.
  int64_t num_batches() const;

  /// Examples of one batch of all ranks together: ranks x batch_size.
  int64_t total_batch_size() const { return options_.batch_size * options_.ranks; }

  /// How many examples of a batch are this rank's: 0 where a last one has fewer than there are
  /// ranks before this one.
  int64_t num_examples(int64_t number) const;

  /// What this rank's mean over its examples counts in the mean of all ranks' means, so that each
  /// example counts alike: 1 where all ranks have as many, 0 where this one has none.
  double weight(int64_t number) const;

  /// This rank's part of the batch of a number in [0, num_batches()), on the CPU. A rank without
  /// examples (its weight() is 0) gets the first of the batch, to go through the motions with.
  Batch batch(int64_t number) const;

  const Dataset& dataset() const { return *dataset_; }
  const LoaderOptions& options() const { return options_; }

 private:
  int64_t batch_end(int64_t number) const;

  std::shared_ptr<const Dataset> dataset_;
  LoaderOptions options_;
  int64_t epoch_ = -1;
  uint64_t draw_ = 0;  // of the epoch and the seed
  at::Tensor order_;
};

}  // namespace halfstep::train
