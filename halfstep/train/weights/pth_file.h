#pragma once
#include "halfstep/train/files/safetensors.h"

#include <filesystem>
#include <string>
#include <vector>

namespace halfstep::train {

/// The state dict of a .pth file.
struct PthFile {
  NamedTensors tensors;
  std::vector<std::string> others;  ///< names of its entries that are no tensors
};

/// Whether a file begins as a zip archive does, and so may be a .pth file. Throws EnvironmentError
/// where it can't be read.
bool is_pth(const std::filesystem::path& file);

/// Reads a state dict that Python's torch.save wrote (since PyTorch 1.6) into CPU tensors. Tensors
/// and plain data are read, nothing is executed; only the storages of the state dict are read, each
/// once, and their checksums compared. Tensors that share a storage there share it here. `key`: see
/// read_pth_index().
///
/// Throws EnvironmentError for a file that is missing, damaged, or holds anything but tensors,
/// numbers, texts and containers of these (an optimizer's state dict will do, a pickled module
/// won't); the message names what it is.
///
/// Difference from torch.load(weights_only=True): only plain dense tensors of the dtypes that have
/// had a storage class of their own in Python, no float8, complex or quantized ones.
PthFile load_pth(const std::filesystem::path& file, const std::string& key = "");

}  // namespace halfstep::train
