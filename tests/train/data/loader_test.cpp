#include "halfstep/train/data/loader.h"

#include "halfstep/core/error.h"

#include <algorithm>

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include "tests/support/errors.h"
#include "tests/support/tolerance.h"

namespace halfstep::train {
namespace {

// Examples that are their own index.
class Numbers : public Dataset {
 public:
  explicit Numbers(int64_t size) : size_(size) {}
  int64_t size() const override { return size_; }
  Batch get_batch(const at::Tensor& indices) const override {
    return {indices.to(at::kFloat), indices};
  }

 private:
  int64_t size_;
};

Loader make(int64_t size, LoaderOptions options) {
  return Loader(std::make_shared<Numbers>(size), options);
}

std::vector<int64_t> numbers(const Batch& batch) {
  const auto* data = batch.target.const_data_ptr<int64_t>();
  return {data, data + batch.target.numel()};
}

std::vector<int64_t> epoch(Loader& loader, int64_t number) {
  loader.set_epoch(number);
  std::vector<int64_t> seen;
  for (int64_t i = 0; i < loader.num_batches(); ++i) {
    const at::Tensor target = loader.batch(i).target;
    seen.insert(seen.end(), target.const_data_ptr<int64_t>(),
                target.const_data_ptr<int64_t>() + target.numel());
  }
  return seen;
}

std::vector<int64_t> sorted(std::vector<int64_t> values) {
  std::sort(values.begin(), values.end());
  return values;
}

}  // namespace

TEST(Loader, GivesEachExampleOnceInOrder) {
  Loader loader = make(10, {.batch_size = 4});
  EXPECT_EQ(loader.num_batches(), 3);
  EXPECT_EQ(loader.batch(2).data.size(0), 2);
  EXPECT_EQ(epoch(loader, 0), (std::vector<int64_t>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}));
  Loader dropping = make(10, {.batch_size = 4, .drop_last = true});
  EXPECT_EQ(dropping.num_batches(), 2);
  EXPECT_EQ(epoch(dropping, 0).size(), 8u);
  EXPECT_EQ(make(8, {.batch_size = 4}).num_batches(), 2);
}

TEST(Loader, ShufflesEachEpochAnew) {
  Loader loader = make(1000, {.batch_size = 64, .shuffle = true, .seed = 3});
  const auto first = epoch(loader, 0);
  const auto second = epoch(loader, 1);
  EXPECT_NE(first, sorted(first));
  EXPECT_NE(first, second);
  EXPECT_EQ(sorted(first), sorted(second));
  EXPECT_EQ(sorted(first).back(), 999);
  // Neighbouring seeds and epochs must not share orders.
  Loader other = make(1000, {.batch_size = 64, .shuffle = true, .seed = 4});
  EXPECT_NE(epoch(other, 0), first);
  EXPECT_NE(epoch(other, 0), second);
}

TEST(Loader, AnOrderDependsOnSeedAndEpochOnly) {
  Loader loader = make(100, {.batch_size = 8, .shuffle = true, .seed = 3});
  const auto fifth = epoch(loader, 5);
  epoch(loader, 2);
  EXPECT_EQ(epoch(loader, 5), fifth);
  Loader resumed = make(100, {.batch_size = 8, .shuffle = true, .seed = 3});
  resumed.set_epoch(5);
  const std::vector<int64_t> tail(fifth.begin() + 96, fifth.end());
  halfstep::testing::expect_same_bits(resumed.batch(12).target, at::tensor(tail));
}

TEST(Loader, LeavesTheDefaultGeneratorAlone) {
  const at::Tensor before = at::detail::getDefaultCPUGenerator().get_state();
  Loader loader = make(100, {.batch_size = 8, .shuffle = true, .seed = 3});
  epoch(loader, 1);
  halfstep::testing::expect_same_bits(at::detail::getDefaultCPUGenerator().get_state(), before);
}

TEST(Loader, RefusesWrongUse) {
  EXPECT_ERROR(Loader(nullptr, {}), UsageError, "[Loader] a data set must be given");
  EXPECT_ERROR(make(4, {.batch_size = 0}), UsageError, "batch_size must be at least 1, but got 0");
  EXPECT_ERROR(make(0, {}), UsageError, "is empty");
  EXPECT_ERROR(make(3, {.batch_size = 4, .drop_last = true}), UsageError,
               "at least one batch of 4, but has 3 examples");
  Loader loader = make(10, {.batch_size = 4});
  EXPECT_ERROR(loader.batch(3), UsageError, "from 0 to 2, but got 3");
  EXPECT_ERROR(loader.batch(-1), UsageError, "but got -1");
  EXPECT_ERROR(loader.set_epoch(-1), UsageError, "at least 0");
}

// Each rank's parts of a batch are, together, the batch of one process; for sizes that divide and
// those that don't.
TEST(LoaderOfRanks, TakeEachExampleOnce) {
  for (const int ranks : {1, 2, 3, 5}) {
    for (const int64_t size : {30, 31, 41, 44}) {
      for (const bool drop_last : {false, true}) {
        SCOPED_TRACE(c10::str(ranks, " ranks, ", size, " examples, drop_last ", drop_last));
        LoaderOptions options{.batch_size = 3, .shuffle = true, .drop_last = drop_last, .seed = 5};
        auto whole = options;
        whole.batch_size *= ranks;
        auto alone = make(size, whole);
        alone.set_epoch(1);
        std::vector<Loader> parts;
        for (int rank = 0; rank < ranks; ++rank) {
          options.rank = rank;
          options.ranks = ranks;
          parts.push_back(make(size, options));
          parts.back().set_epoch(1);
          ASSERT_EQ(parts.back().num_batches(), alone.num_batches());
          EXPECT_EQ(parts.back().total_batch_size(), 3 * ranks);
        }
        for (int64_t number = 0; number < alone.num_batches(); ++number) {
          auto wanted = numbers(alone.batch(number));
          std::vector<int64_t> got;
          double weights = 0;
          for (const auto& part : parts) {
            const auto own = numbers(part.batch(number));
            weights += part.weight(number);
            if (part.num_examples(number) == 0) {
              EXPECT_EQ(part.weight(number), 0);
              EXPECT_EQ(own, std::vector{wanted.front()}) << "something to go through the motions";
              continue;
            }
            EXPECT_EQ(static_cast<int64_t>(own.size()), part.num_examples(number));
            EXPECT_DOUBLE_EQ(part.weight(number) / ranks,
                             static_cast<double>(own.size()) / static_cast<double>(wanted.size()));
            got.insert(got.end(), own.begin(), own.end());
          }
          EXPECT_NEAR(weights, ranks, 1e-12);
          std::sort(wanted.begin(), wanted.end());
          std::sort(got.begin(), got.end());
          EXPECT_EQ(got, wanted) << "batch " << number;
        }
      }
    }
  }
}

TEST(LoaderOfRanks, RefusesWhatIsNoRank) {
  EXPECT_ERROR(make(10, {.rank = 2, .ranks = 2}), UsageError, "[Loader]",
               "rank must be from 0 to ranks - 1, but got 2 of 2");
  EXPECT_ERROR(make(10, {.batch_size = 6, .drop_last = true, .rank = 0, .ranks = 2}), UsageError,
               "at least one batch of 12, but has 10");
}

}  // namespace halfstep::train
