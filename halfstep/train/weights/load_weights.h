#pragma once
#include "halfstep/train/files/checkpoint.h"

#include <filesystem>
#include <iosfwd>
#include <string>
#include <vector>

#include <torch/nn/module.h>

namespace halfstep::train {

/// Which of a file's tensors are taken.
struct LoadWeightsOptions {
  /// Whether the file must have exactly the module's tensors; else those that fit are taken.
  bool strict = true;
  /// Of a .pth file: under which key of its dict the weights lie; empty: found by the usual names
  /// (see read_pth_index).
  std::string key = {};
  /// Only the file's names that begin with this are taken, without it: "backbone.". Empty: all, but
  /// without "module." where all begin with it, as DistributedDataParallel's do, and the module's
  /// don't.
  std::string prefix = {};
};

/// What load_weights() took and what not. Prints as a few lines.
struct WeightsReport {
  std::string file;
  size_t loaded = 0;                    ///< tensors that were copied
  size_t wanted = 0;                    ///< tensors that the module has
  std::vector<std::string> converted;   ///< of those loaded, in another dtype in the file
  std::vector<std::string> missing;     ///< not in the file: they keep their values
  std::vector<std::string> unexpected;  ///< not in the module
  std::vector<std::string> reshaped;    ///< of another shape or kind of number: kept, too

  /// Whether the file had exactly the module's tensors.
  bool is_complete() const { return missing.empty() && unexpected.empty() && reshaped.empty(); }

  /// "loaded 3 of 4 tensors from a.pth", and a line for each list that is not empty.
  std::string text() const;
};
/// Writes text().
std::ostream& operator<<(std::ostream& out, const WeightsReport& report);

/// Copies weights from a file into the parameters and buffers of `module` by name, in place, on
/// their devices. The file is a safetensors file, Python's or a checkpoint of halfstep, or what
/// Python's torch.save wrote of a state dict (.pth, .pt, .bin: the content tells, not the name), of
/// which nothing is executed.
///
///   const auto report = load_weights(*net, "resnet18.pth", {.strict = false});
///   std::cout << report;
///
/// A floating-point tensor takes values of any dtype, rounded to its own; the report names them
/// (integers, too: Module::to(dtype) makes counters floating-point ones, unlike Python's). Integers
/// and bools take their own dtype only.
///
/// Throws, before anything is changed: EnvironmentError for a file that can't be read and, where
/// `strict`, for one with other names or shapes than the module's; UsageError where finite values
/// would become infinite in the module's dtype, or `key` is wrong. Not thread-safe. Syncs with the
/// module's device where dtypes differ.
///
/// Difference from Python's load_state_dict: all or nothing, dtypes that differ are told.
WeightsReport load_weights(torch::nn::Module& module, const std::filesystem::path& file,
                           const LoadWeightsOptions& options = {});

/// The same with tensors that are there already; `name` stands for the file.
WeightsReport load_weights(torch::nn::Module& module, const NamedTensors& weights,
                           const std::string& name, const LoadWeightsOptions& options = {});

/// The weights in such a file as CPU tensors, named as the module's are: of a checkpoint of
/// halfstep the model's, without "model.". Entries of a state dict that are no tensors are
/// undefined ones here.
NamedTensors read_weights(const std::filesystem::path& file, const std::string& key = "");

/// Whether a file is a checkpoint of halfstep. Throws EnvironmentError where it is none of the
/// files above.
bool is_checkpoint(const std::filesystem::path& file);

/// The model's tensors of a checkpoint, without "model.".
NamedTensors model_tensors(const Checkpoint& checkpoint);

/// A checkpoint of halfstep, or any other such file as one without a state: its weights under
/// "model.".
Checkpoint read_as_checkpoint(const std::filesystem::path& file);

}  // namespace halfstep::train
