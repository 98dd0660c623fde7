#pragma once
#include "halfstep/train/data/dataset.h"

#include <c10/core/Device.h>

namespace halfstep::train {

/// A batch on `device`; an undefined tensor stays one. Does not sync with a GPU: what lies in
/// ordinary memory goes there through pinned memory, as a plain copy would wait until the GPU has
/// done all that it had to do.
Batch to_device(const Batch& batch, c10::Device device);

}  // namespace halfstep::train
