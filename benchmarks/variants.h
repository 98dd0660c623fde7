#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "benchmarks/workload.h"

namespace halfstep::benchmarks {

/// One training step; the loss it computed.
using Step = std::function<at::Tensor()>;

/// A way to train: what differs between two rows of the benchmark's table.
struct Variant {
  std::string name;
  bool images_only = false;    ///< Makes sense for resnet18 alone.
  bool channels_last = false;  ///< Of the network and its input.
  std::string float32;         ///< The variant whose float32 is its own; empty: itself.
  /// Makes the step. `autocast`: in bfloat16, else the variant's own float32.
  std::function<Step(std::shared_ptr<train::Model>, Batch, bool autocast)> make_step;
};

/// How many calls of a step so far were recorded by a Graph, always its first ones; 0 for other
/// steps.
int64_t recorded_steps(const Step& step);

/// Ours. A new one is an entry here.
const std::vector<Variant>& variants();

/// Throws UsageError for an unknown name.
const Variant& find_variant(const std::string& name);

}  // namespace halfstep::benchmarks
