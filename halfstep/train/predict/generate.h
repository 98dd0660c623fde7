#pragma once
#include "halfstep/train/loop/amp_settings.h"
#include "halfstep/train/models/gpt.h"

#include <cstdint>
#include <string>
#include <string_view>

namespace halfstep::train {

/// How a text is continued.
struct GenerateOptions {
  int64_t length = 200;      ///< characters to add
  double temperature = 1.0;  ///< scores are divided by it; 0: always the most likely character
  uint64_t seed = 0;         ///< of the draw
};

/// Continues a text, character by character (bytes, as TextFile's tokens): each is drawn from what
/// the model, which must have a vocabulary of 256, says of the last `context` ones. Evaluation
/// mode, no gradients, the precision of `amp`; the draw is in float32 on the CPU, so equal scores
/// give equal texts on any device. Throws UsageError for an empty prompt, another vocabulary and
/// options out of range.
std::string generate(Gpt& model, std::string_view prompt, const GenerateOptions& options,
                     const AmpSettings& amp);

}  // namespace halfstep::train
