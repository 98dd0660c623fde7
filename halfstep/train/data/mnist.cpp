#include "halfstep/train/data/mnist.h"

#include "halfstep/core/error.h"
#include "halfstep/train/data/idx_file.h"
#include "halfstep/train/data/image_file.h"

#include <algorithm>
#include <string>
#include <utility>

#include <ATen/ATen.h>

namespace halfstep::train {
namespace {

namespace fs = std::filesystem;

// MNIST's names come with - or . before "idx", gzipped or not.
fs::path find_file(const fs::path& root, const std::string& stem, const std::string& kind) {
  std::string tried;
  for (const char* separator : {"-", "."}) {
    for (const char* suffix : {"", ".gz"}) {
      const std::string name = c10::str(stem, separator, kind, "-ubyte", suffix);
      std::error_code ignored;
      if (fs::exists(root / name, ignored)) return root / name;
      tried += (tried.empty() ? "" : ", ") + name;
    }
  }
  halfstep::detail::raise<EnvironmentError>(
      "Mnist", root.string(), " must hold MNIST's files, but has none of ", tried,
      "; for Fashion-MNIST run apt-get install dataset-fashion-mnist (it goes to ",
      MnistOptions().root.string(), "), or put MNIST's files into that folder");
}

// Smaller ones divide a pixel to infinity.
constexpr double min_std = 1e-30;
constexpr const char* std_rule = "must be at least 1e-30";

void check_labels(const at::Tensor& labels, const fs::path& file) {
  const auto* begin = labels.const_data_ptr<uint8_t>();
  const auto* end = begin + labels.numel();
  const auto* wrong = std::find_if(begin, end, [](uint8_t label) { return label > 9; });
  HALFSTEP_CHECK_ENVIRONMENT(wrong == end, "Mnist", file.string(),
                             " must hold labels from 0 to 9, but label ", wrong - begin, " is ",
                             int{*wrong}, "; the file is damaged or of another data set");
}

// By the ops of ToTensor and Normalize.
at::Tensor normalized(const at::Tensor& pixels, const MnistOptions& options) {
  auto values = pixels.to(at::kFloat).div_(255);
  if (options.mean != 0.0) values.sub_(options.mean);
  if (options.std != 1.0) values.div_(options.std);
  return values;
}

MnistOptions read_options(Config& config) {
  MnistOptions options;
  options.root = config.get<std::string>("root", options.root.string());
  const auto split = config.get<std::string>("split", "train");
  if (split != "train" && split != "test") config.fail("split", "must be train or test");
  options.train = split == "train";
  options.limit = config.get<int64_t>("limit", options.limit);
  if (options.limit != -1 && options.limit < 1)
    config.fail("limit", "must be at least 1, or -1 for all");
  options.mean = config.get<double>("mean", options.mean);
  options.std = config.get<double>("std", options.std);
  if (!(options.std >= min_std)) config.fail("std", std_rule);
  return options;
}

class MnistReader : public InputReader {
 public:
  explicit MnistReader(Config& config) : options_(read_options(config)) {}

  at::Tensor read(const fs::path& file) const override {
    return normalized(read_image(file, ImageColor::gray), options_);
  }

 private:
  MnistOptions options_;
};

}  // namespace

Mnist::Mnist(const MnistOptions& options) {
  HALFSTEP_CHECK_USAGE(options.limit == -1 || options.limit >= 1, "Mnist",
                       "limit must be at least 1, or -1 for all, but got ", options.limit);
  HALFSTEP_CHECK_USAGE(options.std >= min_std, "Mnist", "std ", std_rule, ", but got ", options.std,
                       "; take the standard deviation of the pixels");
  const std::string stem = options.train ? "train" : "t10k";
  const fs::path image_file = find_file(options.root, stem + "-images", "idx3");
  const fs::path label_file = find_file(options.root, stem + "-labels", "idx1");

  const at::Tensor images = read_idx(image_file);
  const at::Tensor labels = read_idx(label_file);
  HALFSTEP_CHECK_ENVIRONMENT(images.dim() == 3, "Mnist", image_file.string(),
                             " must have 3 dimensions (pictures, rows, columns), but has ",
                             images.dim(), "; use MNIST's own files");
  HALFSTEP_CHECK_ENVIRONMENT(labels.dim() == 1, "Mnist", label_file.string(),
                             " must have 1 dimension, but has ", labels.dim(),
                             "; use MNIST's own files");
  HALFSTEP_CHECK_ENVIRONMENT(images.size(0) == labels.size(0), "Mnist",
                             "there must be one label for each picture, but ", image_file.string(),
                             " has ", images.size(0), " pictures and ", label_file.string(), " ",
                             labels.size(0), " labels; take both from the same data set");
  check_labels(labels, label_file);

  const int64_t count =
      options.limit == -1 ? images.size(0) : std::min(options.limit, images.size(0));
  images_ = images.narrow(0, 0, count);
  labels_ = labels.narrow(0, 0, count);
  // A look-up gives the bits of the ops.
  values_ = normalized(at::arange(256, at::kByte), options);
}

Batch Mnist::get_batch(const at::Tensor& indices) const {
  HALFSTEP_CHECK_USAGE(indices.dim() == 1 && indices.scalar_type() == at::kLong &&
                           indices.is_cpu() && indices.numel() > 0,
                       "Mnist::get_batch",
                       "indices must be a non-empty int64 CPU tensor of 1 dimension, but got ",
                       indices.toString(), " ", indices.sizes());
  const at::Tensor order = indices.contiguous();
  const int64_t count = order.numel();
  const int64_t pixels = images_.size(1) * images_.size(2);
  Batch batch{at::empty({count, 1, images_.size(1), images_.size(2)}, at::kFloat),
              at::empty({count}, at::kLong)};
  const auto* index = order.const_data_ptr<int64_t>();
  const auto* images = images_.const_data_ptr<uint8_t>();
  const auto* labels = labels_.const_data_ptr<uint8_t>();
  const auto* values = values_.const_data_ptr<float>();
  auto* data = batch.data.mutable_data_ptr<float>();
  auto* target = batch.target.mutable_data_ptr<int64_t>();
  // One thread: waking others costs more than a batch.
  for (int64_t n = 0; n < count; ++n) {
    HALFSTEP_CHECK_USAGE(index[n] >= 0 && index[n] < size(), "Mnist::get_batch",
                         "indices must be from 0 to ", size() - 1, ", but got ", index[n]);
    const uint8_t* image = images + index[n] * pixels;
    for (int64_t i = 0; i < pixels; ++i) data[n * pixels + i] = values[image[i]];
    target[n] = labels[index[n]];
  }
  return batch;
}

std::shared_ptr<Dataset> make_mnist(Config& config) {
  return std::make_shared<Mnist>(read_options(config));
}

std::unique_ptr<InputReader> make_mnist_reader(Config& config) {
  return std::make_unique<MnistReader>(config);
}

}  // namespace halfstep::train
