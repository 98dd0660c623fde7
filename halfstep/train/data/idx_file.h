#pragma once
#include <cstdint>
#include <filesystem>

#include <ATen/core/Tensor.h>

namespace halfstep::train {

/// Reads an IDX file of unsigned bytes, plain or gzipped, into a uint8 CPU tensor of its shape.
/// Throws EnvironmentError for a file that is missing, no IDX file, shorter or longer than its
/// header says, or whose data are above `max_bytes`. Sizes are checked before memory is asked for,
/// so neither a wrong header nor a gzip bomb takes more than `max_bytes`.
at::Tensor read_idx(const std::filesystem::path& file, uint64_t max_bytes = uint64_t{4} << 30);

}  // namespace halfstep::train
