#pragma once
#include <cstdint>
#include <filesystem>

#include <c10/core/ScalarType.h>
#include <torch/nn/module.h>

namespace halfstep::train {

/// How weights are written.
struct ExportOptions {
  c10::ScalarType dtype = c10::kFloat;  ///< of all floating-point tensors: any dtype of halfstep's
  /// Whether values beyond the dtype's range become infinite; else they are an error.
  bool allow_overflow = false;
};

/// What was written, and what the dtype did to it.
struct ExportReport {
  size_t tensors = 0;
  uint64_t bytes = 0;      ///< of all tensors
  int64_t overflowed = 0;  ///< values that became infinite
  int64_t vanished = 0;    ///< values other than 0 that became 0
};

/// Writes a module's parameters and buffers, by their names, as a safetensors file that Python's
/// safetensors opens and load_state_dict takes; whole or not at all. Floating-point tensors are
/// converted, each rounded once; others stay. Needs memory for a second copy of the weights where
/// dtypes differ. Syncs with the module's device.
///
/// Throws, before anything is written: UsageError for a tensor with finite values beyond the
/// dtype's range, by name, unless they are allowed; EnvironmentError where the disk refuses.
ExportReport export_weights(const torch::nn::Module& module, const std::filesystem::path& file,
                            const ExportOptions& options);

}  // namespace halfstep::train
