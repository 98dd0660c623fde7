#include "halfstep/train/files/png_file.h"

#include "halfstep/core/error.h"
#include "halfstep/train/files/atomic_file.h"

#include <algorithm>
#include <string>

#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros.h>

#include <png.h>

namespace halfstep::train {

namespace {

constexpr const char* where = "write_png_grid";
constexpr int64_t gap = 2;

// As uint8 (n, c, h, w) on the CPU; rounded to the nearest as torchvision's save_image rounds.
at::Tensor as_bytes(const at::Tensor& images) {
  HALFSTEP_CHECK_USAGE(images.defined() && images.dim() == 4 &&
                           (images.size(1) == 1 || images.size(1) == 3) && images.numel() > 0,
                       where, "images must have shape (n, 1 or 3, height, width), but got ",
                       images.defined() ? c10::str(images.sizes()) : "an undefined tensor",
                       "; give at least one gray or RGB image");
  if (images.scalar_type() == c10::kByte) return images.cpu();
  HALFSTEP_CHECK_USAGE(images.is_floating_point(), where,
                       "images must be floating point in [0, 1] or uint8, but got ",
                       images.scalar_type(), "; convert them");
  const auto values = images.detach().cpu().to(c10::kFloat);
  HALFSTEP_CHECK_USAGE(!values.isnan().any().item<bool>(), where,
                       "images must be numbers, but some are NaN; look at what made them");
  return (values * 255 + 0.5).clamp(0, 255).to(c10::kByte);
}

// (height, width, c), contiguous.
at::Tensor arrange(const at::Tensor& images, int64_t columns) {
  const auto n = images.size(0);
  const auto height = images.size(2);
  const auto width = images.size(3);
  columns = std::min(columns, n);
  const auto rows = (n + columns - 1) / columns;
  auto grid = at::zeros(
      {rows * (height + gap) - gap, columns * (width + gap) - gap, images.size(1)}, at::kByte);
  for (int64_t i = 0; i < n; ++i)
    grid.narrow(0, i / columns * (height + gap), height)
        .narrow(1, i % columns * (width + gap), width)
        .copy_(images[i].permute({1, 2, 0}));
  return grid;
}

}  // namespace

void write_png_grid(const std::filesystem::path& file, const at::Tensor& images, int64_t columns) {
  HALFSTEP_CHECK_USAGE(columns >= 1, where, "columns must be at least 1, but got ", columns,
                       "; 8 is a good number");
  const auto grid = arrange(as_bytes(images), columns);
  png_image header = {};
  header.version = PNG_IMAGE_VERSION;
  header.height = static_cast<png_uint_32>(grid.size(0));
  header.width = static_cast<png_uint_32>(grid.size(1));
  header.format = grid.size(2) == 1 ? PNG_FORMAT_GRAY : PNG_FORMAT_RGB;
  const auto encode = [&](void* memory, png_alloc_size_t& size) {
    const auto done =
        png_image_write_to_memory(&header, memory, &size, 0, grid.data_ptr(), 0, nullptr);
    HALFSTEP_CHECK_USAGE(done, where,
                         "the images must fit into a PNG file, but libpng says: ", header.message,
                         "; write fewer or smaller ones");
  };
  png_alloc_size_t size = 0;
  encode(nullptr, size);
  std::string bytes(size, '\0');
  encode(bytes.data(), size);
  write_file(file, {bytes.data(), size});
}

}  // namespace halfstep::train
