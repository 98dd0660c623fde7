#pragma once
#include "halfstep/train/config/config.h"
#include "halfstep/train/data/dataset.h"
#include "halfstep/train/data/image_file.h"
#include "halfstep/train/data/image_transforms.h"
#include "halfstep/train/data/input_reader.h"

#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace halfstep::train {

/// Images in a folder for each class, as torchvision's ImageFolder: root/cat/1.png,
/// root/dog/a/2.jpg. Classes are numbered in the order of their names; each has the files below its
/// folder that end in .png, .jpg or .jpeg, sorted.
///
/// A batch holds float32 (n, c, height, width) and int64 (n): each file is read when it is asked
/// for, on as many threads as LibTorch has, and goes through the transforms. Those that are random
/// are drawn from the run's seed, the epoch and the example's number, so a resumed run sees what an
/// unbroken one does.
class ImageFolder : public Dataset {
 public:
  /// What is read, and how.
  struct Options {
    std::filesystem::path root;
    ImageColor color = ImageColor::rgb;
    std::vector<std::string> classes = {};  ///< folders to use, in this order; empty: all
    ImageTransforms transforms = {};
  };

  /// Lists the files; reads none. Throws EnvironmentError for a folder that is missing or has no
  /// classes, and for a class without images.
  explicit ImageFolder(Options options);

  int64_t size() const override { return static_cast<int64_t>(files_.size()); }
  Batch get_batch(const at::Tensor& indices) const override { return draw_batch(indices, 0); }

  /// Throws EnvironmentError, which names the file, for one that can't be decoded; UsageError for
  /// one that a transform does not suit or that comes out of another size than the others.
  Batch draw_batch(const at::Tensor& indices, uint64_t draw) const override;

  const std::vector<std::string>& classes() const { return options_.classes; }

 private:
  Options options_;
  std::vector<std::pair<std::filesystem::path, int64_t>> files_;  // with their classes
};

/// Builds an ImageFolder from a config with the keys root, color (rgb or gray), classes and
/// transforms.
std::shared_ptr<Dataset> make_image_folder(Config& config);

/// What reads one image as such a data set does, for `halfstep predict`.
std::unique_ptr<InputReader> make_image_folder_reader(Config& config);

}  // namespace halfstep::train
