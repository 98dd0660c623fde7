#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

namespace halfstep::train {

/// Makes a file what a data set's examples are: `halfstep predict` reads its inputs through it.
class InputReader {
 public:
  virtual ~InputReader() = default;

  /// One example without the batch dimension, as the data set gives its data. Throws
  /// EnvironmentError or UsageError that names the file.
  virtual at::Tensor read(const std::filesystem::path& file) const = 0;

  /// The names of the classes, by number; empty where they have none.
  virtual std::vector<std::string> classes() const { return {}; }
};

}  // namespace halfstep::train
