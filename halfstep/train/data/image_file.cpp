#include "halfstep/train/data/image_file.h"

#include "halfstep/core/error.h"
#include "halfstep/train/data/image_decoders.h"
#include "halfstep/train/files/input_file.h"

#include <ATen/ops/empty.h>

namespace halfstep::train {
namespace {

constexpr std::string_view kPng("\x89PNG\r\n\x1a\n", 8);
constexpr std::string_view kJpeg("\xff\xd8\xff", 3);

// As Pillow rounds it: 16 bits of fraction.
uint8_t luminance(const uint8_t* rgb) {
  return static_cast<uint8_t>((rgb[0] * 19595 + rgb[1] * 38470 + rgb[2] * 7471 + 0x8000) >> 16);
}

}  // namespace

at::Tensor decode_image(std::string_view bytes, ImageColor color, const std::string& name) {
  const bool png = bytes.starts_with(kPng);
  HALFSTEP_CHECK_ENVIRONMENT(png || bytes.starts_with(kJpeg), "image", name,
                             " must be a PNG or JPEG file, but its first bytes are those of "
                             "another; convert it, or leave it out");
  const auto pixels = png ? detail::decode_png(bytes, kMaxImagePixels)
                          : detail::decode_jpeg(bytes, kMaxImagePixels);
  HALFSTEP_CHECK_ENVIRONMENT(pixels.problem.empty(), "image", name, " must be a whole ",
                             png ? "PNG" : "JPEG", " image of at most ", kMaxImagePixels,
                             " pixels, but ", png ? "libpng" : "libjpeg", " says: ", pixels.problem,
                             "; get it again, or leave it out");
  const int64_t area = pixels.height * pixels.width;
  const int64_t channels = color == ImageColor::gray ? 1 : 3;
  auto image = at::empty({channels, pixels.height, pixels.width}, at::kByte);
  auto* out = image.mutable_data_ptr<uint8_t>();
  const auto* in = pixels.bytes.data();
  for (int64_t i = 0; i < area; ++i) {
    const auto* pixel = in + i * pixels.channels;
    if (channels == 1) {
      out[i] = pixels.channels == 1 ? *pixel : luminance(pixel);
      continue;
    }
    for (int64_t c = 0; c < 3; ++c) out[c * area + i] = pixel[pixels.channels == 1 ? 0 : c];
  }
  return image;
}

at::Tensor read_image(const std::filesystem::path& file, ImageColor color) {
  InputFile in(file, "an image");
  std::string bytes(in.size(), '\0');
  in.read(bytes.data(), bytes.size());
  return decode_image(bytes, color, file.string());
}

}  // namespace halfstep::train
