#include "halfstep/train/data/image_transforms.h"

#include "halfstep/core/error.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include <ATen/ops/_upsample_bilinear2d_aa.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/flip.h>
#include <ATen/ops/tensor.h>

namespace halfstep::train {
namespace {

// Height and width, in this order.
using Size = std::pair<int64_t, int64_t>;

// A number (a square) or a list of height and width.
Size read_size(Config& config, const char* key) {
  const auto sizes = config.is_number(key) ? std::vector<int64_t>(2, config.get<int64_t>(key))
                                           : config.get<std::vector<int64_t>>(key);
  if (sizes.size() != 2 || *std::min_element(sizes.begin(), sizes.end()) < 1)
    config.fail(key, "must be a number of pixels, or a list of height and width");
  return {sizes.front(), sizes.back()};
}

at::Tensor crop(const at::Tensor& image, int64_t top, int64_t left, Size size) {
  return image.narrow(1, top, size.first).narrow(2, left, size.second);
}

// As Pillow resizes, up to a difference of 1 in rounding.
at::Tensor resized(const at::Tensor& image, Size size) {
  if (image.size(1) == size.first && image.size(2) == size.second) return image;
  const auto pixels = image.to(at::kFloat).unsqueeze(0);
  const auto result =
      at::_upsample_bilinear2d_aa(pixels, {size.first, size.second}, /*align_corners=*/false)
          .squeeze(0);
  return image.scalar_type() == at::kByte ? result.round().clamp(0, 255).to(at::kByte) : result;
}

class Resize : public ImageTransform {
 public:
  explicit Resize(Config& config) : shorter_(config.is_number("size")) {
    size_ = read_size(config, "size");
  }
  at::Tensor apply(const at::Tensor& image, ExampleRandom&) const override {
    if (!shorter_) return resized(image, size_);
    // The longer side is cut to a whole number, as torchvision does.
    const auto height = image.size(1);
    const auto width = image.size(2);
    const auto side = size_.first;
    return height <= width ? resized(image, {side, std::max<int64_t>(1, side * width / height)})
                           : resized(image, {std::max<int64_t>(1, side * height / width), side});
  }

 private:
  bool shorter_;
  Size size_;
};

at::Tensor padded(const at::Tensor& image, int64_t top, int64_t bottom, int64_t left,
                  int64_t right) {
  if (top <= 0 && bottom <= 0 && left <= 0 && right <= 0) return image;
  return at::constant_pad_nd(image, {left, right, top, bottom}, 0);
}

class CenterCrop : public ImageTransform {
 public:
  explicit CenterCrop(Config& config) : size_(read_size(config, "size")) {}
  at::Tensor apply(const at::Tensor& image, ExampleRandom&) const override {
    const auto more_rows = std::max<int64_t>(0, size_.first - image.size(1));
    const auto more_columns = std::max<int64_t>(0, size_.second - image.size(2));
    const auto whole =
        padded(image, more_rows / 2, (more_rows + 1) / 2, more_columns / 2, (more_columns + 1) / 2);
    return crop(whole, middle(whole.size(1) - size_.first), middle(whole.size(2) - size_.second),
                size_);
  }

 private:
  // Python's round(): halves go to the even number.
  static int64_t middle(int64_t rest) {
    return static_cast<int64_t>(std::nearbyint(static_cast<double>(rest) / 2));
  }
  Size size_;
};

class RandomCrop : public ImageTransform {
 public:
  explicit RandomCrop(Config& config)
      : size_(read_size(config, "size")), padding_(config.get<int64_t>("padding", 0)) {
    if (padding_ < 0) config.fail("padding", "must be a number of pixels from 0 on");
  }
  at::Tensor apply(const at::Tensor& image, ExampleRandom& random) const override {
    const auto whole = padded(image, padding_, padding_, padding_, padding_);
    const auto rows = whole.size(1) - size_.first;
    const auto columns = whole.size(2) - size_.second;
    HALFSTEP_CHECK_USAGE(rows >= 0 && columns >= 0, "RandomCrop",
                         "an image must be at least as large as the crop, ", size_.first, "x",
                         size_.second, ", but got ", whole.size(1), "x", whole.size(2),
                         "; resize it first, or give it a padding");
    const auto top = random.below(rows + 1);
    return crop(whole, top, random.below(columns + 1), size_);
  }

 private:
  Size size_;
  int64_t padding_;
};

class RandomHorizontalFlip : public ImageTransform {
 public:
  explicit RandomHorizontalFlip(Config& config) : prob_(config.get<double>("prob", 0.5)) {
    if (prob_ < 0 || prob_ > 1) config.fail("prob", "must be from 0 to 1");
  }
  at::Tensor apply(const at::Tensor& image, ExampleRandom& random) const override {
    return random.share() < prob_ ? at::flip(image, {2}) : image;
  }

 private:
  double prob_;
};

class ToTensor : public ImageTransform {
 public:
  at::Tensor apply(const at::Tensor& image, ExampleRandom&) const override {
    return image.scalar_type() == at::kByte ? image.to(at::kFloat).div_(255) : image;
  }
};

class Normalize : public ImageTransform {
 public:
  explicit Normalize(Config& config) {
    const auto mean = config.get<std::vector<double>>("mean");
    const auto std = config.get<std::vector<double>>("std");
    if (mean.size() != std.size() || mean.empty())
      config.fail("std", "must have as many numbers as mean, one or one a channel");
    for (const auto value : std)
      if (!(value > 0)) config.fail("std", "must be above 0");
    mean_ = at::tensor(mean, at::kFloat).view({-1, 1, 1});
    std_ = at::tensor(std, at::kFloat).view({-1, 1, 1});
  }
  at::Tensor apply(const at::Tensor& image, ExampleRandom&) const override {
    HALFSTEP_CHECK_USAGE(mean_.size(0) == 1 || mean_.size(0) == image.size(0), "Normalize",
                         "mean and std must have one number, or one for each of the image's ",
                         image.size(0), " channels, but have ", mean_.size(0),
                         "; set the data set's color to gray or rgb");
    return image.sub(mean_).div(std_);
  }

 private:
  at::Tensor mean_, std_;
};

std::shared_ptr<const ImageTransform> make_transform(const std::string& type, Config& config) {
  if (type == "Resize") return std::make_shared<Resize>(config);
  if (type == "CenterCrop") return std::make_shared<CenterCrop>(config);
  if (type == "RandomCrop") return std::make_shared<RandomCrop>(config);
  if (type == "RandomHorizontalFlip") return std::make_shared<RandomHorizontalFlip>(config);
  if (type == "ToTensor") return std::make_shared<ToTensor>();
  if (type == "Normalize") return std::make_shared<Normalize>(config);
  config.fail(
      "type",
      "must be Resize, CenterCrop, RandomCrop, RandomHorizontalFlip, ToTensor or Normalize");
}

}  // namespace

uint64_t ExampleRandom::next() {
  // SplitMix64.
  state_ += 0x9e3779b97f4a7c15;
  uint64_t value = state_;
  value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9;
  value = (value ^ value >> 27) * 0x94d049bb133111eb;
  return value ^ value >> 31;
}

double ExampleRandom::share() {
  return static_cast<double>(next() >> 11) * 0x1p-53;
}

int64_t ExampleRandom::below(int64_t count) {
  return std::min(count - 1, static_cast<int64_t>(share() * static_cast<double>(count)));
}

ImageTransforms::ImageTransforms(Config& config) {
  bool is_tensor = false;
  for (auto& mapping : config.children("transforms")) {
    const auto type = mapping.get<std::string>("type");
    if (type == "Normalize" && !is_tensor) steps_.push_back(std::make_shared<ToTensor>());
    is_tensor = is_tensor || type == "ToTensor" || type == "Normalize";
    steps_.push_back(make_transform(type, mapping));
  }
  if (!is_tensor) steps_.push_back(std::make_shared<ToTensor>());
}

at::Tensor ImageTransforms::apply(at::Tensor image, ExampleRandom random) const {
  for (const auto& step : steps_) image = step->apply(image, random);
  return image;
}

}  // namespace halfstep::train
