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

/// The state of one device's default generator (uint8, on the CPU), and setting it back. Throws
/// EnvironmentError where it is none of this LibTorch's.
at::Tensor generator_state(c10::Device device);
void set_generator_state(c10::Device device, const at::Tensor& state);

}  // namespace halfstep::train
