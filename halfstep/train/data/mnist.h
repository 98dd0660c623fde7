#pragma once
#include "halfstep/train/config/config.h"
#include "halfstep/train/data/dataset.h"
#include "halfstep/train/data/input_reader.h"

#include <cstdint>
#include <filesystem>
#include <memory>

namespace halfstep::train {

/// What of the data set is read, and how.
struct MnistOptions {
  /// A folder in MNIST's format: Debian's Fashion-MNIST, or wherever MNIST's files were put.
  std::filesystem::path root = "/usr/share/datasets/fashion-mnist";
  bool train = true;   ///< The training or the test examples.
  int64_t limit = -1;  ///< Only the first so many examples; -1: all.
  double mean = 0.0;   ///< data = (pixel / 255 - mean) / std
  double std = 1.0;
};

/// Pictures of ten classes in MNIST's IDX files, plain or gzipped: MNIST, Fashion-MNIST, KMNIST…
///
/// get_batch() gives data as float32 (n, 1, height, width) in [0, 1] with the bits of torchvision's
/// ToTensor (then Normalize where mean or std are set), target as int64 (n). Pixels are kept in
/// memory as bytes; a batch of 64 takes some 20 µs. Reading is const and takes no lock: many
/// threads may call get_batch().
class Mnist : public Dataset {
 public:
  /// Reads the files. Throws UsageError for wrong options; EnvironmentError where the folder or a
  /// file is missing (with the names that were tried), is damaged, where there are not as many
  /// labels as pictures, or where a label is no digit.
  explicit Mnist(const MnistOptions& options);

  int64_t size() const override { return images_.size(0); }
  Batch get_batch(const at::Tensor& indices) const override;

 private:
  at::Tensor images_;  // uint8 (size, height, width)
  at::Tensor labels_;  // uint8 (size)
  at::Tensor values_;  // float32 (256): what each byte becomes
};

/// Builds a Mnist from a config with the keys root, split (train or test), limit, mean and std.
std::shared_ptr<Dataset> make_mnist(Config& config);

/// What reads a PNG or JPEG file as such a picture, for `halfstep predict`: in gray, with the
/// config's mean and std. The picture's size must be the data set's.
std::unique_ptr<InputReader> make_mnist_reader(Config& config);

}  // namespace halfstep::train
