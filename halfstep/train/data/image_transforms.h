#pragma once
#include "halfstep/train/config/config.h"

#include <cstdint>
#include <memory>
#include <vector>

#include <ATen/core/Tensor.h>

namespace halfstep::train {

/// Random numbers for one example: the same for the same key, on any machine.
class ExampleRandom {
 public:
  /// Neighbouring keys give unrelated numbers.
  explicit ExampleRandom(uint64_t key) : state_(key) {}

  /// From 0 to count - 1; `count` at least 1.
  int64_t below(int64_t count);
  /// In [0, 1).
  double share();

 private:
  uint64_t next();
  uint64_t state_;
};

/// One step from a decoded image to what a model takes, as the class of that name in torchvision's
/// transforms does it. Const: many threads may call it.
class ImageTransform {
 public:
  virtual ~ImageTransform() = default;

  /// uint8 (c, h, w), or float32 once it is a tensor in ToTensor's sense → the same or float32.
  /// Throws UsageError where the image does not suit.
  virtual at::Tensor apply(const at::Tensor& image, ExampleRandom& random) const = 0;
};

/// The transforms of a data set, in order. Images become float32 in [0, 1] by ToTensor, before
/// Normalize, or at the end.
class ImageTransforms {
 public:
  ImageTransforms() = default;

  /// Reads `transforms`, a list of mappings with a type: Resize, CenterCrop, RandomCrop,
  /// RandomHorizontalFlip, ToTensor, Normalize (docs/config.md has their keys). Throws UsageError
  /// with file and line for a value out of range, another type, or one that can't stand there.
  explicit ImageTransforms(Config& config);

  /// A decoded image → float32 (c, h, w).
  at::Tensor apply(at::Tensor image, ExampleRandom random) const;

 private:
  std::vector<std::shared_ptr<const ImageTransform>> steps_;
};

}  // namespace halfstep::train
