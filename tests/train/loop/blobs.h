#pragma once
#include <string>

namespace halfstep::train::testing {

/// Registers the data set "Blobs" (examples: n, nan_at: index of an example that is NaN, -1 for
/// none): 16 numbers around one of four centres, the same every time; the hook "Drift", which moves
/// a weight by what it has seen so far; the loss "SignalInEvaluation", cross entropy that raises
/// SIGTERM once, in the first evaluation of the process; the model "TwoStepNet", a DropoutNet whose
/// layers "first" and "last" are trained in turn by the wrappers of their names; and the model
/// "LoudNet" (gain: its hidden
/// layer times that overflows float16; broken_from: from this training step on its square root of 0
/// gives the layer "first" NaN gradients, with a finite loss). Safe to call more than once.
void register_blobs();

/// A config over it: a small network with dropout, Adam, shuffling, a scheduler. 2 epochs of 6
/// batches.
extern const char* const blobs_config;

}  // namespace halfstep::train::testing
