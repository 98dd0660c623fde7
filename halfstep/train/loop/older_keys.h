#pragma once
#include "halfstep/train/config/config.h"

namespace halfstep::train {

/// Gives the keys of MMCV's and MMEditing's configs the meaning they had, or refuses them.
///
/// `fp16: {loss_scale: S}` makes `optim_wrapper` an AmpOptimWrapper of float16 with that loss
/// scale: `dynamic` (torch's scaler), a number (static, a step that overflows is skipped; 512 where
/// none is given) or a mapping; with MMCV's names (`mode`, `scale_factor`, `scale_window`) MMCV's
/// own scaler. Its values move into `optim_wrapper`, so that --amp finds an AmpOptimWrapper there
/// and a saved config says it the newer way; they keep their places. `fp16: null` means nothing.
///
/// Throws UsageError, with both places, where `optim_wrapper` has a loss_scale, another dtype or
/// another type of its own, and for the other older keys, with what to write for each.
///
/// Difference from Python: MMCV refuses an integer, which means the same here.
void apply_older_keys(Config& config);

}  // namespace halfstep::train
