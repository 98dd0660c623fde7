#pragma once
#include "halfstep/train/files/safetensors_header.h"

#include <filesystem>
#include <map>
#include <string>

#include <ATen/core/Tensor.h>

namespace halfstep::train {

/// Tensors by name, in the order of the names.
using NamedTensors = std::map<std::string, at::Tensor>;

/// What a safetensors file holds.
struct Safetensors {
  NamedTensors tensors;
  std::map<std::string, std::string> metadata;
};

/// Writes a safetensors file whole or not at all (see atomic_file.h). Equal content gives equal
/// bytes: tensors lie in the order of falling element size, then name, so each is aligned.
///
/// Tensors may be on any device and non-contiguous, and are written one at a time: memory is needed
/// for a copy of the largest only. Syncs with the devices. Throws UsageError for an undefined
/// or sparse tensor, for dtypes the format lacks (complex, quantized) and for names that are not
/// UTF-8; EnvironmentError where the disk refuses.
void save_safetensors(const std::filesystem::path& file, const Safetensors& content);

/// Reads a safetensors file into CPU tensors. Throws EnvironmentError for a file that is missing,
/// truncated, too long or damaged; the file's size is checked before memory is asked for.
Safetensors load_safetensors(const std::filesystem::path& file);

/// The metadata of a safetensors file alone. Throws EnvironmentError as load_safetensors() does.
std::map<std::string, std::string> load_safetensors_metadata(const std::filesystem::path& file);

/// LibTorch's dtype for one of the format.
c10::ScalarType scalar_type_of(SafetensorsDtype dtype);

}  // namespace halfstep::train
