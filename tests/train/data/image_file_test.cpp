#include "halfstep/train/data/image_file.h"

#include "halfstep/core/error.h"
#include "halfstep/train/files/safetensors.h"

#include <ATen/ATen.h>

#include "tests/support/errors.h"
#include "tests/support/temp_folder.h"
#include "tests/support/tolerance.h"

namespace halfstep::train {
namespace {

using halfstep::testing::expect_same_bits;
using halfstep::testing::read_file;

const std::filesystem::path kGolden = HALFSTEP_TEST_SOURCES "/golden";

}  // namespace

TEST(ImageFile, HasThePixelsOfPillow) {
  int compared = 0;
  for (const auto& [name, expected] : load_safetensors(kGolden / "expected.safetensors").tensors) {
    SCOPED_TRACE(name);
    const std::filesystem::path path = name;
    if (path.parent_path() == "resized") continue;
    const auto color = path.filename() == "rgb" ? ImageColor::rgb : ImageColor::gray;
    const auto image = read_image(kGolden / path.parent_path(), color);
    // Newer libjpegs than Debian's round a few pixels of a JPEG to the other side.
    if (path.parent_path().extension() == ".jpg")
      EXPECT_LE((image.to(at::kInt) - expected.to(at::kInt)).abs().max().item<int>(), 2);
    else
      expect_same_bits(image, expected);
    ++compared;
  }
  EXPECT_EQ(compared, 14);
}

TEST(ImageFile, NamesTheFileThatCantBeDecoded) {
  const halfstep::testing::TempFolder folder;
  const auto read = [](const std::filesystem::path& file) {
    return read_image(file, ImageColor::rgb);
  };
  EXPECT_ERROR(read(folder.path() / "none.png"), EnvironmentError, "none.png", "No such file");
  EXPECT_ERROR(read(folder.write("text.png", "hello")), EnvironmentError, "[image]", "text.png",
               "must be a PNG or JPEG file");
  EXPECT_ERROR(read(folder.write("empty.png", "")), EnvironmentError, "empty.png");
  EXPECT_ERROR(read(kGolden / "cmyk.jpg"), EnvironmentError, "cmyk.jpg", "libjpeg says",
               "it is in CMYK");
  for (const char* name : {"rgb.png", "rgb.jpg", "progressive.jpg", "palette.png"}) {
    const auto bytes = read_file(kGolden / name);
    for (size_t size = 8; size + 4 < bytes.size(); size += 5)
      EXPECT_ERROR(read(folder.write(name, bytes.substr(0, size))), EnvironmentError, name,
                   "get it again");
  }
  auto damaged = read_file(kGolden / "rgb.png");
  damaged[damaged.size() / 2] = static_cast<char>(damaged[damaged.size() / 2] ^ 0x55);
  EXPECT_ERROR(read(folder.write("damaged.png", damaged)), EnvironmentError, "damaged.png",
               "libpng says");
}

TEST(ImageFile, AsksForNoMemoryAHeaderOnlyClaims) {
  // Width and height of a PNG, big endian, and the check sum of its header made to fit.
  auto bytes = read_file(kGolden / "rgb.png");
  bytes.replace(16, 8, std::string("\x00\x10\x00\x00\x00\x10\x00\x00", 8));
  EXPECT_ERROR(decode_image(bytes, ImageColor::rgb, "large.png"), EnvironmentError, "large.png");
  auto jpeg = read_file(kGolden / "rgb.jpg");
  const auto frame = jpeg.find("\xff\xc0");
  ASSERT_NE(frame, jpeg.npos);
  jpeg.replace(frame + 5, 4, "\xf0\xf0\xf0\xf0");
  EXPECT_ERROR(decode_image(jpeg, ImageColor::rgb, "large.jpg"), EnvironmentError, "large.jpg",
               "it has too many pixels");
}

}  // namespace halfstep::train
