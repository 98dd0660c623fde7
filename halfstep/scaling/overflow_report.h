#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include <c10/core/Device.h>

namespace halfstep {

/// Whose gradients had an inf or NaN.
struct OverflowSource {
  int64_t optimizer;   ///< its number, from 0, in the order the scaler first saw them
  c10::Device device;  ///< of the gradients

  bool operator==(const OverflowSource&) const = default;
};

/// An update that came after an overflow.
struct SkippedUpdate {
  int64_t update;     ///< its number: the scaler's first update is 1
  double scale;       ///< the scale that overflowed
  double next_scale;  ///< what the update made of it
  /// Who found it. Empty where only other ranks of the process group did. More than 52 sources
  /// share the last place.
  std::vector<OverflowSource> sources;

  bool operator==(const SkippedUpdate&) const = default;
};

/// What a GradScaler saw since it was made; see GradScaler::overflows.
struct OverflowReport {
  int64_t updates = 0;              ///< calls of `update` after steps that were checked
  int64_t overflows = 0;            ///< those after an overflow
  int64_t skipped_steps = 0;        ///< steps of optimizers that were left out
  int64_t overflowing_since = 0;    ///< first update of those in a row up to the last; 0: none
  std::vector<SkippedUpdate> last;  ///< the last ones, oldest first: `report_size` at most

  /// One line, and one for each of `last`, to print.
  std::string text() const;
};

}  // namespace halfstep
