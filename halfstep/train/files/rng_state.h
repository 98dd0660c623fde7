#pragma once
#include "halfstep/train/files/checkpoint.h"

namespace halfstep::train {

/// Puts the state of LibTorch's default generators into `checkpoint`: "rng.cpu" and, where CUDA
/// works, "rng.cuda.N" for each device (uint8, as Python's torch.get_rng_state). Does not sync.
void save_rng(Checkpoint& checkpoint);

/// Sets the default generators back. States of CUDA devices that this machine lacks are passed
/// over: nothing here could draw from them. Throws EnvironmentError where "rng.cpu" is missing or a
/// state is none of this LibTorch's.
void load_rng(const Checkpoint& checkpoint);

}  // namespace halfstep::train
