#pragma once
#include "halfstep/train/config/config.h"
#include "halfstep/train/loop/run_parts.h"
#include "halfstep/train/predict/generate.h"

#include <filesystem>
#include <string>
#include <vector>

/// The commands that need a trained model and no data set.
namespace halfstep::train {

/// `halfstep export`: writes the weights of a checkpoint, or of any file that load_weights() takes,
/// in `dtype` (float16, bfloat16 or float32) as a safetensors file, and says what that did to them.
/// Returns the exit status.
int export_command(Config config, const RunOptions& options,
                   const std::filesystem::path& checkpoint, const std::string& dtype,
                   const std::filesystem::path& file, bool allow_overflow);

/// How `halfstep predict` works and prints.
struct PredictOptions {
  bool json = false;        ///< a JSON object for each input
  int64_t batch_size = 32;  ///< images at once
  GenerateOptions text;     ///< of a language model
};

/// `halfstep predict`: for an image classifier prints the class and its probability for each file
/// of `inputs`, read as the config's data set (test, val or train) makes its examples; for a
/// language model (a Gpt on a TextFile) continues each text of `inputs`. Returns the exit status:
/// 1 where a file could not be read, after the others were.
int predict_command(Config config, const RunOptions& options,
                    const std::filesystem::path& checkpoint, const std::vector<std::string>& inputs,
                    const PredictOptions& predict);

}  // namespace halfstep::train
