#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

/// libpng and libjpeg-turbo behind one interface. No LibTorch here.
namespace halfstep::train::detail {

/// Rows of pixels, channels last, as the file has them: gray or RGB.
struct Pixels {
  int64_t width = 0;
  int64_t height = 0;
  int64_t channels = 0;  ///< 1 or 3
  std::vector<uint8_t> bytes;
  std::string problem;  ///< why it can't be decoded; empty where it was
};

Pixels decode_png(std::string_view bytes, int64_t max_pixels);
Pixels decode_jpeg(std::string_view bytes, int64_t max_pixels);

}  // namespace halfstep::train::detail
