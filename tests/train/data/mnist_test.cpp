#include "halfstep/train/data/mnist.h"

#include "halfstep/core/error.h"
#include "halfstep/train/registry/registry.h"

#include <ATen/ATen.h>

#include "tests/support/errors.h"
#include "tests/support/temp_folder.h"
#include "tests/support/tolerance.h"
#include "tests/train/data/idx_bytes.h"

namespace halfstep::train {
namespace {

using halfstep::testing::expect_same_bits;
using halfstep::testing::gzip;
using halfstep::testing::idx_header;
using halfstep::testing::TempFolder;

// Pixels 0, 1, …, 255, 0, …: every value a byte can have.
std::string pixels(size_t count) {
  std::string bytes(count, '\0');
  for (size_t i = 0; i < count; ++i) bytes[i] = static_cast<char>(i);
  return bytes;
}

const std::string kImages = idx_header({5, 8, 16}) + pixels(5 * 8 * 16);
const std::string kLabels = idx_header({5}) + std::string("\3\0\x09\1\2", 5);

MnistOptions in(const TempFolder& folder) {
  MnistOptions options;
  options.root = folder.path();
  return options;
}

// A folder with a small data set in it.
struct Sample : TempFolder {
  Sample() {
    write("train-images-idx3-ubyte", kImages);
    write("train-labels-idx1-ubyte", kLabels);
  }
};

}  // namespace

TEST(Mnist, GivesTheBitsOfToTensor) {
  const Sample folder;
  const Mnist mnist(in(folder));
  ASSERT_EQ(mnist.size(), 5);
  for (const auto& indices : {at::tensor({int64_t{4}, int64_t{0}, int64_t{2}}),
                              at::tensor({int64_t{1}, int64_t{2}, int64_t{3}}),
                              at::tensor({int64_t{3}}), at::tensor({int64_t{2}, int64_t{2}})}) {
    const Batch batch = mnist.get_batch(indices);
    ASSERT_EQ(batch.data.sizes(), (c10::IntArrayRef{indices.size(0), 1, 8, 16}));
    ASSERT_EQ(batch.data.scalar_type(), at::kFloat);
    ASSERT_TRUE(batch.data.is_contiguous());
    std::vector<float> expected;
    std::vector<int64_t> labels;
    for (int64_t n = 0; n < indices.size(0); ++n) {
      const int64_t index = indices[n].item<int64_t>();
      for (int64_t i = 0; i < 128; ++i)
        expected.push_back(static_cast<float>((index * 128 + i) % 256) / 255.0f);
      labels.push_back(std::vector<int64_t>{3, 0, 9, 1, 2}.at(index));
    }
    expect_same_bits(batch.data.flatten(), at::tensor(expected));
    expect_same_bits(batch.target, at::tensor(labels));
  }
}

TEST(Mnist, ABatchIsACopy) {
  const Sample folder;
  const Mnist mnist(in(folder));
  const auto indices = at::arange(2, at::kLong);
  Batch batch = mnist.get_batch(indices);
  batch.data.fill_(7);
  batch.target.fill_(7);
  EXPECT_EQ(mnist.get_batch(indices).data.max().item<float>(), 1.0f);
  EXPECT_EQ(mnist.get_batch(indices).target[0].item<int64_t>(), 3);
}

TEST(Mnist, Normalizes) {
  const Sample folder;
  auto options = in(folder);
  options.mean = 0.25;
  options.std = 0.5;
  const auto indices = at::arange(5, at::kLong);
  const at::Tensor plain = Mnist(in(folder)).get_batch(indices).data;
  expect_same_bits(Mnist(options).get_batch(indices).data, (plain - 0.25) / 0.5);
}

TEST(Mnist, FindsEachSpellingOfTheNames) {
  for (const char* separator : {"-", "."}) {
    for (const bool packed : {false, true}) {
      const TempFolder folder;
      const std::string suffix = packed ? "-ubyte.gz" : "-ubyte";
      folder.write(std::string("t10k-images") + separator + "idx3" + suffix,
                   packed ? gzip(kImages) : kImages);
      folder.write(std::string("t10k-labels") + separator + "idx1" + suffix,
                   packed ? gzip(kLabels) : kLabels);
      auto options = in(folder);
      options.train = false;
      EXPECT_EQ(Mnist(options).size(), 5);
      options.train = true;
      EXPECT_ERROR(Mnist{options}, EnvironmentError, "train-images-idx3-ubyte");
    }
  }
}

TEST(Mnist, TakesTheFirstExamples) {
  const Sample folder;
  auto options = in(folder);
  options.limit = 2;
  EXPECT_EQ(Mnist(options).size(), 2);
  EXPECT_ERROR(Mnist(options).get_batch(at::arange(3, at::kLong)), UsageError,
               "indices must be from 0 to 1");
  options.limit = 99;
  EXPECT_EQ(Mnist(options).size(), 5);
  options.limit = 0;
  EXPECT_ERROR(Mnist{options}, UsageError, "[Mnist] limit must be at least 1", "but got 0");
  options.limit = -1;
  options.std = 0;
  EXPECT_ERROR(Mnist{options}, UsageError, "std must be at least 1e-30, but got 0; take");
}

TEST(Mnist, SaysWhatIsMissingAndHowToGetIt) {
  MnistOptions options;
  options.root = "/no/such/folder";
  EXPECT_ERROR(Mnist{options}, EnvironmentError, "[Mnist] /no/such/folder",
               "train-images-idx3-ubyte, train-images-idx3-ubyte.gz, train-images.idx3-ubyte",
               "apt-get install dataset-fashion-mnist", "put MNIST's files into that folder");
  const Sample folder;
  std::filesystem::remove(folder.path() / "train-labels-idx1-ubyte");
  EXPECT_ERROR(Mnist(in(folder)), EnvironmentError, "has none of train-labels-idx1-ubyte");
}

TEST(Mnist, RefusesWrongFiles) {
  const Sample folder;
  folder.write("train-labels-idx1-ubyte", idx_header({5}) + std::string("\0\1\2\x0a\1", 5));
  EXPECT_ERROR(Mnist(in(folder)), EnvironmentError, "train-labels-idx1-ubyte",
               "labels from 0 to 9, but label 3 is 10");
  folder.write("train-labels-idx1-ubyte", idx_header({4}) + std::string(4, '\0'));
  EXPECT_ERROR(Mnist(in(folder)), EnvironmentError, "one label for each picture", "has 5 pictures",
               "4 labels");
  folder.write("train-labels-idx1-ubyte", kImages);
  EXPECT_ERROR(Mnist(in(folder)), EnvironmentError, "must have 1 dimension, but has 3");
  folder.write("train-labels-idx1-ubyte", kLabels);
  folder.write("train-images-idx3-ubyte", kLabels);
  EXPECT_ERROR(Mnist(in(folder)), EnvironmentError, "must have 3 dimensions", "but has 1");
  folder.write("train-images-idx3-ubyte", kImages.substr(0, 100));
  EXPECT_ERROR(Mnist(in(folder)), EnvironmentError, "train-images-idx3-ubyte", "cut off");
}

TEST(Mnist, RefusesWrongIndices) {
  const Sample folder;
  const Mnist mnist(in(folder));
  EXPECT_ERROR(mnist.get_batch(at::arange(2, at::kInt)), UsageError, "int64");
  EXPECT_ERROR(mnist.get_batch(at::empty({0}, at::kLong)), UsageError, "non-empty");
  EXPECT_ERROR(mnist.get_batch(at::tensor({int64_t{-1}})), UsageError, "but got -1");
  EXPECT_ERROR(mnist.get_batch(at::tensor({int64_t{5}, int64_t{0}})), UsageError,
               "indices must be from 0 to 4, but got 5");
}

TEST(Mnist, IsBuiltFromAConfig) {
  const Sample folder;
  const std::string root = "type: Mnist\nroot: " + folder.path().string() + "\n";
  const auto build = [&](const std::string& rest) {
    Config config = Config::parse(root + rest, "f.yaml");
    const auto dataset = datasets().build(config);
    config.finish();
    return dataset;
  };
  const auto indices = at::arange(2, at::kLong);
  const Batch plain = build("split: train")->get_batch(indices);
  EXPECT_EQ(build("split: train")->size(), 5);
  const auto changed = build("split: train\nlimit: 2\nmean: 0.25\nstd: 0.5");
  EXPECT_EQ(changed->size(), 2);
  expect_same_bits(changed->get_batch(indices).data, (plain.data - 0.25) / 0.5);

  EXPECT_ERROR(build("split: valid"), UsageError, "f.yaml:3", "must be train or test");
  EXPECT_EQ(build("limit: 2")->size(), 2);
  EXPECT_EQ(build("split: train\nlimit: -1")->size(), 5);
  EXPECT_ERROR(build("split: valid"), UsageError, "f.yaml:3", "must be train or test");
  EXPECT_ERROR(build("split: train\nlimit: 0"), UsageError, "f.yaml:4", "at least 1");
  EXPECT_ERROR(build("split: train\nstd: 0"), UsageError, "f.yaml:4", "at least 1e-30");
  EXPECT_ERROR(build("std: 1e-300"), UsageError, "f.yaml:3", "at least 1e-30");
  EXPECT_ERROR(build("split: train\nlimits: 3"), UsageError, "f.yaml:4", "limits", "limit");
  EXPECT_ERROR(build("split: test"), EnvironmentError, "t10k-images-idx3-ubyte");
}

TEST(FashionMnist, IsReadWhole) {
  MnistOptions options;
  if (!std::filesystem::exists(options.root))
    GTEST_SKIP() << "SKIPPED, NOTHING WAS TESTED: apt-get install dataset-fashion-mnist";
  const Mnist train(options);
  EXPECT_EQ(train.size(), 60000);
  const Batch all = train.get_batch(at::arange(60000, at::kLong));
  EXPECT_EQ(all.data.sizes(), (c10::IntArrayRef{60000, 1, 28, 28}));
  // Fashion-MNIST's published mean, and 6000 pictures of each of its classes.
  EXPECT_NEAR(all.data.mean(at::kDouble).item<double>(), 0.2860, 1e-4);
  expect_same_bits(all.target.bincount(), at::full({10}, 6000, at::kLong));
  EXPECT_EQ(all.target[0].item<int64_t>(), 9);
  options.train = false;
  EXPECT_EQ(Mnist(options).size(), 10000);
}

}  // namespace halfstep::train
