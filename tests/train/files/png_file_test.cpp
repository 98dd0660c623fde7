#include "halfstep/train/files/png_file.h"

#include "halfstep/core/error.h"

#include <limits>

#include <torch/types.h>

#include "tests/support/devices.h"
#include "tests/support/errors.h"
#include "tests/support/temp_folder.h"
#include "tests/train/files/faults.h"
#include <png.h>

namespace halfstep::train {
namespace {

using halfstep::testing::FaultScope;
using halfstep::testing::is_fault_point;
using halfstep::testing::read_file;
using halfstep::testing::TempFolder;

/// (height, width, channels) as libpng reads it, in the format the file has.
torch::Tensor read_png(const std::filesystem::path& file) {
  png_image header = {};
  header.version = PNG_IMAGE_VERSION;
  if (!png_image_begin_read_from_file(&header, file.c_str()))
    throw std::runtime_error(header.message);
  EXPECT_EQ(header.format & ~PNG_FORMAT_FLAG_COLOR, 0u) << "8 bits, no alpha, no palette";
  const auto channels = static_cast<int64_t>(PNG_IMAGE_SAMPLE_CHANNELS(header.format));
  auto pixels = torch::empty({header.height, header.width, channels}, torch::kByte);
  if (!png_image_finish_read(&header, nullptr, pixels.data_ptr(), 0, nullptr))
    throw std::runtime_error(header.message);
  return pixels;
}

class PngFile : public halfstep::testing::DeviceTest {
 protected:
  const TempFolder folder;
  const std::filesystem::path file = folder.path() / "grid.png";
};

}  // namespace

TEST_P(PngFile, SetsImagesSideBySide) {
  const auto images = torch::arange(5 * 3 * 4, torch::kByte).view({5, 1, 3, 4}).to(device());
  write_png_grid(file, images, 3);
  const auto grid = read_png(file);
  ASSERT_EQ(grid.sizes(), (torch::IntArrayRef{2 * 3 + 2, 3 * 4 + 2 * 2, 1}));
  for (int64_t i = 0; i < 5; ++i) {
    const auto part = grid.narrow(0, i / 3 * 5, 3).narrow(1, i % 3 * 6, 4).select(2, 0);
    EXPECT_TRUE(part.equal(images[i][0].cpu())) << "image " << i;
  }
  // The rest is black: the gaps, and the sixth place.
  EXPECT_EQ(grid.sum().item<int64_t>(), images.sum().item<int64_t>());
}

TEST_P(PngFile, RoundsAndCutsOff) {
  const auto values = torch::tensor({0.0, 1.0, 0.5, 1.4 / 255, 1.6 / 255, -3.0, 7.0, 0.11});
  const auto expected = torch::tensor({0, 255, 128, 1, 2, 0, 255, 28}, torch::kByte);
  write_png_grid(file, values.view({1, 1, 2, 4}).to(device()));
  EXPECT_TRUE(read_png(file).flatten().equal(expected)) << read_png(file).flatten();
  write_png_grid(file, values.to(torch::kHalf).view({1, 1, 4, 2}).to(device()));
  EXPECT_TRUE(read_png(file).flatten().equal(expected)) << "float16";
}

TEST_P(PngFile, KeepsColours) {
  const auto images = torch::arange(2 * 3 * 2 * 2, torch::kByte).view({2, 3, 2, 2}).to(device());
  write_png_grid(file, images);
  const auto grid = read_png(file);
  ASSERT_EQ(grid.sizes(), (torch::IntArrayRef{2, 2 + 2 + 2, 3}));
  EXPECT_TRUE(grid.narrow(1, 4, 2).permute({2, 0, 1}).equal(images[1].cpu()));
}

HALFSTEP_ON_EACH_DEVICE(PngFile);

TEST(PngFileOnDisk, IsTheSameBytesForTheSameImages) {
  const TempFolder folder;
  const auto images = torch::linspace(0, 1, 64).view({1, 1, 8, 8});
  write_png_grid(folder.path() / "a.png", images);
  write_png_grid(folder.path() / "b.png", images.clone());
  EXPECT_EQ(read_file(folder.path() / "a.png"), read_file(folder.path() / "b.png"));
}

TEST(PngFileOnDisk, LeavesTheOlderFileWhereItFails) {
  const TempFolder folder;
  const auto file = folder.path() / "a.png";
  write_png_grid(file, torch::zeros({1, 1, 2, 2}));
  const auto before = read_file(file);
  {
    const FaultScope scope("half_written", [](const char* point) {
      if (is_fault_point(point)) throw std::runtime_error("stopped");
    });
    EXPECT_THROW(write_png_grid(file, torch::ones({1, 1, 9, 9})), std::runtime_error);
  }
  EXPECT_EQ(read_file(file), before);
  EXPECT_EQ(folder.names().size(), 1u);
  EXPECT_ERROR(write_png_grid(folder.path() / "no" / "a.png", torch::zeros({1, 1, 2, 2})),
               EnvironmentError, "make the folder");
}

TEST(PngFileOnDisk, RefusesWhatIsNoImage) {
  const TempFolder folder;
  const auto write = [&](const torch::Tensor& images, int64_t columns = 8) {
    write_png_grid(folder.path() / "a.png", images, columns);
  };
  EXPECT_ERROR(write(torch::zeros({3, 8, 8})), UsageError, "[write_png_grid]",
               "shape (n, 1 or 3, height, width), but got [3, 8, 8]");
  EXPECT_ERROR(write(torch::zeros({1, 2, 8, 8})), UsageError, "but got [1, 2, 8, 8]");
  EXPECT_ERROR(write(torch::zeros({0, 1, 8, 8})), UsageError, "at least one");
  EXPECT_ERROR(write({}), UsageError, "an undefined tensor");
  EXPECT_ERROR(write(torch::zeros({1, 1, 8, 8}, torch::kLong)), UsageError, "but got Long");
  EXPECT_ERROR(write(torch::full({1, 1, 8, 8}, std::numeric_limits<float>::quiet_NaN())),
               UsageError, "NaN");
  EXPECT_ERROR(write(torch::zeros({1, 1, 8, 8}), 0), UsageError, "columns must be at least 1");
  EXPECT_TRUE(folder.names().empty());
}

}  // namespace halfstep::train
