#include "halfstep/train/data/image_decoders.h"

#include <algorithm>
#include <csetjmp>
#include <cstring>

#include <png.h>

namespace halfstep::train::detail {
namespace {

struct Input {
  std::string_view bytes;
  size_t at = 0;
  char problem[256] = "";
};

void read_bytes(png_structp png, png_bytep data, size_t size) {
  auto& input = *static_cast<Input*>(png_get_io_ptr(png));
  if (size > input.bytes.size() - input.at) png_error(png, "it was cut off");
  std::memcpy(data, input.bytes.data() + input.at, size);
  input.at += size;
}

void note_error(png_structp png, png_const_charp message) {
  auto& input = *static_cast<Input*>(png_get_error_ptr(png));
  std::strncpy(input.problem, message, sizeof(input.problem) - 1);
  png_longjmp(png, 1);
}

void ignore_warning(png_structp, png_const_charp) {}

// Between setjmp and the end nothing is made that would have to be destroyed: errors jump.
bool decode(png_structp png, png_infop info, Pixels& pixels, std::vector<png_bytep>& rows,
            int64_t max_pixels) {
  if (setjmp(png_jmpbuf(png)) != 0) return false;
  png_read_info(png, info);
  pixels.width = png_get_image_width(png, info);
  pixels.height = png_get_image_height(png, info);
  if (pixels.width * pixels.height > max_pixels) png_error(png, "it has too many pixels");
  png_set_expand(png);
  png_set_strip_16(png);
  png_set_strip_alpha(png);
  png_set_interlace_handling(png);
  png_read_update_info(png, info);
  pixels.channels = png_get_channels(png, info);
  const auto row = static_cast<size_t>(pixels.width * pixels.channels);
  if ((pixels.channels != 1 && pixels.channels != 3) || png_get_rowbytes(png, info) != row)
    png_error(png, "its pixels are of an unknown kind");
  pixels.bytes.resize(row * static_cast<size_t>(pixels.height));
  rows.resize(static_cast<size_t>(pixels.height));
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = pixels.bytes.data() + i * row;
  png_read_image(png, rows.data());
  png_read_end(png, nullptr);
  return true;
}

}  // namespace

Pixels decode_png(std::string_view bytes, int64_t max_pixels) {
  Input input{bytes};
  Pixels pixels;
  std::vector<png_bytep> rows;
  auto* png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &input, note_error, ignore_warning);
  auto* info = png != nullptr ? png_create_info_struct(png) : nullptr;
  if (info != nullptr) {
    png_set_user_limits(png, 0x7fffffff, 0x7fffffff);
    png_set_read_fn(png, &input, read_bytes);
    if (!decode(png, info, pixels, rows, max_pixels)) pixels.problem = input.problem;
  } else {
    pixels.problem = "libpng does not start";
  }
  png_destroy_read_struct(&png, &info, nullptr);
  return pixels;
}

}  // namespace halfstep::train::detail
