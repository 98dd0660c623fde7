#include "halfstep/train/data/image_decoders.h"

#include <csetjmp>
#include <cstdio>

// After cstdio, which they need.
#include <jerror.h>
#include <jpeglib.h>

namespace halfstep::train::detail {
namespace {

struct Errors {
  jpeg_error_mgr manager;  // first: libjpeg knows only this part
  std::jmp_buf jump;
  char problem[JMSG_LENGTH_MAX];
};

[[noreturn]] void leave(j_common_ptr jpeg) {
  auto& errors = *reinterpret_cast<Errors*>(jpeg->err);
  errors.manager.format_message(jpeg, errors.problem);
  std::longjmp(errors.jump, 1);
}

// Of a file that ends too early libjpeg only warns, and makes the rest gray.
void message(j_common_ptr jpeg, int level) {
  const auto code = jpeg->err->msg_code;
  if (level < 0 && (code == JWRN_JPEG_EOF || code == JWRN_HIT_MARKER)) leave(jpeg);
}

[[noreturn]] void leave_with(jpeg_decompress_struct& jpeg, const char* problem) {
  auto& errors = *reinterpret_cast<Errors*>(jpeg.err);
  std::snprintf(errors.problem, sizeof(errors.problem), "%s", problem);
  std::longjmp(errors.jump, 1);
}

// Between setjmp and the end nothing is made that would have to be destroyed: errors jump.
bool decode(jpeg_decompress_struct& jpeg, Errors& errors, std::string_view bytes, Pixels& pixels,
            int64_t max_pixels) {
  if (setjmp(errors.jump) != 0) return false;
  jpeg_create_decompress(&jpeg);
  jpeg_mem_src(&jpeg, reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size());
  jpeg_read_header(&jpeg, TRUE);
  if (jpeg.num_components != 1 && jpeg.num_components != 3)
    leave_with(jpeg, "it is in CMYK; convert it to RGB");
  jpeg.out_color_space = jpeg.num_components == 1 ? JCS_GRAYSCALE : JCS_RGB;
  pixels.width = jpeg.image_width;
  pixels.height = jpeg.image_height;
  pixels.channels = jpeg.num_components;
  if (pixels.width * pixels.height > max_pixels) leave_with(jpeg, "it has too many pixels");
  jpeg_start_decompress(&jpeg);
  const auto row = static_cast<size_t>(pixels.width * pixels.channels);
  pixels.bytes.resize(row * static_cast<size_t>(pixels.height));
  while (jpeg.output_scanline < jpeg.output_height) {
    auto* line = pixels.bytes.data() + row * jpeg.output_scanline;
    jpeg_read_scanlines(&jpeg, &line, 1);
  }
  jpeg_finish_decompress(&jpeg);
  return true;
}

}  // namespace

Pixels decode_jpeg(std::string_view bytes, int64_t max_pixels) {
  Pixels pixels;
  Errors errors{};
  jpeg_decompress_struct jpeg{};
  jpeg.err = jpeg_std_error(&errors.manager);
  errors.manager.error_exit = leave;
  errors.manager.emit_message = message;
  if (!decode(jpeg, errors, bytes, pixels, max_pixels)) pixels.problem = errors.problem;
  jpeg_destroy_decompress(&jpeg);
  return pixels;
}

}  // namespace halfstep::train::detail
