#pragma once
#include "halfstep/train/registry/registry.h"

namespace halfstep::train {

/// The built-in losses: means over the batch, as Python's classes of these names. Under autocast
/// they are computed in float32.

/// Scores (n, classes) or (n, classes, ...) and int64 class indices (n) or (n, ...). Keys:
/// label_smoothing (0.0, in [0, 1]), ignore_index (-100). An index out of range is LibTorch's error
/// on the CPU and a failed kernel on CUDA. Difference from Python: indices (n, t) go with scores
/// (n·t, classes) too, which is what Gpt gives.
Loss make_cross_entropy(Config& config);

/// Log-probabilities (n, classes) or (n, classes, ...) and int64 class indices. Key: ignore_index
/// (-100).
Loss make_nll(Config& config);

/// Two tensors of one shape; the target is converted to the output's dtype. No keys.
/// Difference from Python: shapes that only broadcast are an error, not a warning.
Loss make_mse(Config& config);

}  // namespace halfstep::train
