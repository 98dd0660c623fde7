#include "halfstep/train/data/loader.h"

#include "halfstep/core/error.h"

#include <algorithm>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Functions.h>

namespace halfstep::train {
namespace {

// The finaliser of SplitMix64: neighbouring inputs give unrelated outputs.
uint64_t mix(uint64_t value) {
  value += 0x9e3779b97f4a7c15;
  value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9;
  value = (value ^ value >> 27) * 0x94d049bb133111eb;
  return value ^ value >> 31;
}

}  // namespace

Loader::Loader(std::shared_ptr<const Dataset> dataset, LoaderOptions options)
    : dataset_(std::move(dataset)), options_(options) {
  HALFSTEP_CHECK_USAGE(dataset_ != nullptr, "Loader",
                       "a data set must be given, but got none; pass one");
  HALFSTEP_CHECK_USAGE(options_.batch_size >= 1, "Loader",
                       "batch_size must be at least 1, but got ", options_.batch_size,
                       "; 64 is usual");
  HALFSTEP_CHECK_USAGE(options_.ranks >= 1 && options_.rank >= 0 && options_.rank < options_.ranks,
                       "Loader", "rank must be from 0 to ranks - 1, but got ", options_.rank,
                       " of ", options_.ranks, "; 0 of 1 is the default");
  HALFSTEP_CHECK_USAGE(dataset_->size() >= 1, "Loader",
                       "the data set must have examples, but is empty; check its folder and limit");
  HALFSTEP_CHECK_USAGE(num_batches() >= 1, "Loader",
                       "the data set must have at least one batch of ", total_batch_size(),
                       ", but has ", dataset_->size(),
                       " examples; make batch_size smaller or drop_last false");
  set_epoch(0);
}

void Loader::set_epoch(int64_t epoch) {
  HALFSTEP_CHECK_USAGE(epoch >= 0, "Loader", "an epoch must be at least 0, but got ", epoch,
                       "; count from 0");
  if (epoch == epoch_) return;
  draw_ = mix(mix(options_.seed) + static_cast<uint64_t>(epoch));
  if (options_.shuffle) {
    const auto generator = at::make_generator<at::CPUGeneratorImpl>(draw_);
    order_ = at::randperm(dataset_->size(), generator, at::kLong);
  } else if (!order_.defined()) {
    order_ = at::arange(dataset_->size(), at::kLong);
  }
  epoch_ = epoch;
}

int64_t Loader::num_batches() const {
  const int64_t whole = dataset_->size() / total_batch_size();
  const bool rest = dataset_->size() % total_batch_size() != 0;
  return whole + (rest && !options_.drop_last ? 1 : 0);
}

int64_t Loader::batch_end(int64_t number) const {
  return std::min((number + 1) * total_batch_size(), dataset_->size());
}

int64_t Loader::num_examples(int64_t number) const {
  const int64_t all = batch_end(number) - number * total_batch_size();
  return (all - options_.rank + options_.ranks - 1) / options_.ranks;
}

double Loader::weight(int64_t number) const {
  const int64_t all = batch_end(number) - number * total_batch_size();
  return static_cast<double>(num_examples(number) * options_.ranks) / static_cast<double>(all);
}

Batch Loader::batch(int64_t number) const {
  HALFSTEP_CHECK_USAGE(number >= 0 && number < num_batches(), "Loader",
                       "a batch's number must be from 0 to ", num_batches() - 1, ", but got ",
                       number, "; go up to num_batches()");
  const int64_t first = number * total_batch_size();
  if (num_examples(number) == 0) return dataset_->draw_batch(order_.narrow(0, first, 1), draw_);
  // A data set may read the numbers one after the other.
  return dataset_->draw_batch(
      order_.slice(0, first + options_.rank, batch_end(number), options_.ranks).contiguous(),
      draw_);
}

}  // namespace halfstep::train
