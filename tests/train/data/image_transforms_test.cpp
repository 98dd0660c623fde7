#include "halfstep/train/data/image_transforms.h"

#include "halfstep/core/error.h"
#include "halfstep/train/data/image_file.h"
#include "halfstep/train/files/safetensors.h"

#include <set>

#include <ATen/ATen.h>

#include "tests/support/errors.h"
#include "tests/support/tolerance.h"

namespace halfstep::train {
namespace {

using halfstep::testing::expect_same_bits;

const std::filesystem::path kGoldenTransforms = HALFSTEP_TEST_SOURCES "/golden";

ImageTransforms make(const std::string& list) {
  auto config = Config::parse("transforms: " + list, "x.yaml");
  ImageTransforms transforms(config);
  config.finish();
  return transforms;
}

at::Tensor transformed(const std::string& list, const at::Tensor& image, uint64_t key = 0) {
  return make(list).apply(image, ExampleRandom(key));
}

// uint8 (1, height, width): 0, 1, 2 …
at::Tensor image(int64_t height, int64_t width) {
  return at::arange(height * width, at::kLong).to(at::kByte).view({1, height, width});
}

at::Tensor bytes(const at::Tensor& values) {
  return (values * 255).round().to(at::kByte);
}

}  // namespace

TEST(ImageTransforms, ResizeHasThePixelsOfPillow) {
  const auto rgb = read_image(kGoldenTransforms / "rgb.png", ImageColor::rgb);
  int compared = 0;
  for (const auto& [name, expected] :
       load_safetensors(kGoldenTransforms / "expected.safetensors").tensors) {
    if (!name.starts_with("resized/")) continue;
    SCOPED_TRACE(name);
    const auto size = c10::str("[", expected.size(1), ", ", expected.size(2), "]");
    const auto got = bytes(transformed("[{type: Resize, size: " + size + "}]", rgb));
    // Pillow rounds after each direction.
    EXPECT_LE((got.to(at::kInt) - expected.to(at::kInt)).abs().max().item<int>(), 1);
    ++compared;
  }
  EXPECT_EQ(compared, 3);
  EXPECT_EQ(transformed("[{type: Resize, size: 6}]", rgb).sizes(), (std::vector<int64_t>{3, 6, 7}));
  EXPECT_EQ(transformed("[{type: Resize, size: 6}]", rgb.transpose(1, 2)).sizes(),
            (std::vector<int64_t>{3, 7, 6}));
}

TEST(ImageTransforms, CropsAreThoseOfTorchvision) {
  const auto five = image(5, 6);
  expect_same_bits(bytes(transformed("[{type: CenterCrop, size: 2}]", five)),
                   five.narrow(1, 2, 2).narrow(2, 2, 2).contiguous());
  // Halves are rounded to even: (6 - 3) / 2 = 1.5 is 2; one that is too small is padded with 0.
  const auto wide = transformed("[{type: CenterCrop, size: [7, 3]}]", five);
  ASSERT_EQ(wide.sizes(), (std::vector<int64_t>{1, 7, 3}));
  expect_same_bits(bytes(wide.narrow(1, 1, 5)), five.narrow(2, 2, 3).contiguous());
  EXPECT_EQ(wide.select(1, 0).sum().item<float>(), 0);
  std::set<int64_t> corners;
  for (uint64_t key = 0; key < 1000; ++key) {
    const auto crop = transformed("[{type: RandomCrop, size: [2, 3], padding: 1}]", five, key);
    ASSERT_EQ(crop.sizes(), (std::vector<int64_t>{1, 2, 3}));
    corners.insert(bytes(crop)[0][1][1].item<int64_t>());
    expect_same_bits(crop,
                     transformed("[{type: RandomCrop, size: [2, 3], padding: 1}]", five, key));
  }
  // The middle pixel is each of the 30 at some place; 6 more places have one of the padding there.
  EXPECT_EQ(corners.size(), 30u);
  EXPECT_ERROR(transformed("[{type: RandomCrop, size: 6}]", five), UsageError, "[RandomCrop]",
               "at least as large as the crop, 6x6, but got 5x6");
}

TEST(ImageTransforms, FlipsAsOftenAsItSays) {
  const auto two = image(1, 2);
  int flipped = 0;
  for (uint64_t key = 0; key < 1000; ++key)
    flipped +=
        transformed("[{type: RandomHorizontalFlip, prob: 0.3}]", two, key)[0][0][0].item<float>() >
        0;
  EXPECT_GT(flipped, 240);
  EXPECT_LT(flipped, 360);
  expect_same_bits(bytes(transformed("[{type: RandomHorizontalFlip, prob: 1}]", two)),
                   two.flip({2}));
}

TEST(ImageTransforms, ToTensorAndNormalizeHaveTheBitsOfTorch) {
  const auto all = image(16, 16);
  const auto tensor = all.to(at::kFloat).div(255);
  expect_same_bits(transformed("[]", all), tensor);
  expect_same_bits(transformed("[{type: ToTensor}]", all), tensor);
  const auto normalized = (tensor - 0.2860f) / 0.3530f;
  for (const char* list : {"[{type: Normalize, mean: [0.2860], std: [0.3530]}]",
                           "[{type: ToTensor}, {type: Normalize, mean: [0.2860], std: [0.3530]}]"})
    expect_same_bits(transformed(list, all), normalized);
  EXPECT_ERROR(transformed("[{type: Normalize, mean: [0, 0], std: [1, 1]}]", all), UsageError,
               "each of the image's 1 channels, but have 2");
}

TEST(ImageTransforms, ConfigsAreStrict) {
  EXPECT_ERROR(make("[{type: Rotate}]"), UsageError, "x.yaml:1", "must be Resize, CenterCrop");
  EXPECT_ERROR(make("[{type: Resize, size: 0}]"), UsageError, "must be a number of pixels");
  EXPECT_ERROR(make("[{type: Resize, size: [1, 2, 3]}]"), UsageError, "list of height and width");
  EXPECT_ERROR(make("[{type: RandomCrop, size: 3, padding: -1}]"), UsageError, "from 0 on");
  EXPECT_ERROR(make("[{type: RandomHorizontalFlip, prob: 2}]"), UsageError, "must be from 0 to 1");
  EXPECT_ERROR(make("[{type: Normalize, mean: [0], std: [0]}]"), UsageError, "must be above 0");
  EXPECT_ERROR(make("[{type: Normalize, mean: [0], std: [1, 1]}]"), UsageError, "as many numbers");
  EXPECT_ERROR(make("[{type: Resize, size: 3, sise: 3}]"), UsageError, "unknown key 'sise'");
}

}  // namespace halfstep::train
