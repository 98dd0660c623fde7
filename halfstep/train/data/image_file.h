#pragma once
#include <filesystem>
#include <string_view>

#include <ATen/core/Tensor.h>

namespace halfstep::train {

/// The channels of an image.
enum class ImageColor { gray, rgb };

/// The most pixels an image may have: some 400 MB of RGB.
constexpr int64_t kMaxImagePixels = int64_t{1} << 27;

/// Reads a PNG or JPEG file (its first bytes tell, not its name) into a uint8 CPU tensor
/// (1 or 3, height, width). Pixels are those of Pillow's Image.open(file).convert("L" or "RGB"):
/// transparency and gamma are left out, 16-bit channels lose their lower half, gray is
/// 0.299 R + 0.587 G + 0.114 B. The orientation that a camera noted is left out, too.
///
/// Throws EnvironmentError that names the file: where it is missing, of another format, damaged,
/// cut off, a JPEG in CMYK, or has more than kMaxImagePixels. May be called from many threads.
at::Tensor read_image(const std::filesystem::path& file, ImageColor color);

/// The same from the bytes of a file; `name` stands for it in messages.
at::Tensor decode_image(std::string_view bytes, ImageColor color, const std::string& name);

}  // namespace halfstep::train
