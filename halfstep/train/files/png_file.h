#pragma once
#include <cstdint>
#include <filesystem>

#include <ATen/core/Tensor.h>

namespace halfstep::train {

/// Writes images side by side, `columns` to a row and 2 black pixels between two of them, into one
/// 8-bit PNG file, whole or not at all (see atomic_file.h).
///
///   write_png_grid("samples.png", model.predict(noise), 8);
///
/// `images`: (n, c, h, w) with n ≥ 1 and c = 1 (gray) or 3 (RGB), on any device (syncs): uint8, or
/// floating point with 0 for black and 1 for white; values beyond are cut off. Equal images give
/// equal bytes. Throws UsageError for another shape or dtype, NaN or columns < 1, EnvironmentError
/// where the disk refuses.
void write_png_grid(const std::filesystem::path& file, const at::Tensor& images,
                    int64_t columns = 8);

}  // namespace halfstep::train
