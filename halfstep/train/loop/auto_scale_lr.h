#pragma once
#include "halfstep/train/config/config.h"
#include "halfstep/train/loop/wrapper_parts.h"

#include <cstdint>
#include <vector>

namespace halfstep::train {

/// What `auto_scale_lr` says, by MMEngine's rule: learning rates are given for a batch of
/// `base_batch_size` examples, and are multiplied by those of this run over it.
///
///   auto_scale_lr: {enable: true, base_batch_size: 256}
///
/// `batch_size` is that of all ranks together. Called before schedules are made, which begin with
/// the rates there are. A note for the log goes to the first wrapper. `enable` (--auto-scale-lr)
/// stands for enable: true. Returns whether it is enabled. Throws UsageError with file and line.
bool scale_rates(Config& config, bool enable, int64_t batch_size,
                 std::vector<WrapperParts>& wrappers);

/// The same for rates that a checkpoint held: times `ratio`.
void multiply_rates(std::vector<WrapperParts>& wrappers, double ratio);

}  // namespace halfstep::train
