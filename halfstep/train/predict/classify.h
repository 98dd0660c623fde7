#pragma once
#include "halfstep/train/data/input_reader.h"
#include "halfstep/train/loop/amp_settings.h"
#include "halfstep/train/models/base_model.h"

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace halfstep::train {

/// What a classifier says of one input.
struct Classification {
  std::filesystem::path input;
  int64_t number = -1;     ///< of the class of the largest score; the first of equal ones
  std::string name;        ///< of that class; its number where it has no name
  double probability = 0;  ///< softmax of the scores, in float32
  std::string error;       ///< why the input could not be read; then nothing above is set
};

/// Reads files, runs the model on them in evaluation mode without gradients, in the precision of
/// `amp`, up to `batch_size` at a time, and gives each result to `use`, in the files' order. A file
/// that can't be read is a result with an error, and the others go on; so are files whose size the
/// model does not take, where LibTorch or the model says so. Files of different sizes are not put
/// into one batch. Returns the number of errors. Syncs after each batch.
///
/// Throws UsageError where the model's output is not (n, classes), or has not as many classes as
/// the reader.
int64_t classify(BaseModel& model, const InputReader& reader,
                 const std::vector<std::filesystem::path>& files, int64_t batch_size,
                 const AmpSettings& amp, const std::function<void(const Classification&)>& use);

}  // namespace halfstep::train
