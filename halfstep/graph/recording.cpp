#include "halfstep/graph/recording.h"

#include "halfstep/autocast/half_rehearsal.h"

#include <utility>

#include <c10/core/GradMode.h>

namespace halfstep::detail {

RecordingKey RecordingKey::of(const std::vector<at::Tensor>& inputs,
                              std::vector<size_t> structure) {
  RecordingKey key{
      std::move(structure), {}, c10::GradMode::is_enabled(), HalfRehearsal::is_enabled()};
  key.inputs.reserve(inputs.size());
  for (const auto& input : inputs) {
    key.inputs.push_back(input.defined() ? Geometry::of(input) : Geometry());
    key.inputs.back().offset = 0;
    key.structure.push_back(input.defined() && input.requires_grad() ? 1 : 0);
  }
  return key;
}

}  // namespace halfstep::detail
