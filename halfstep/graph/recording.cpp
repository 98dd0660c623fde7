#include "halfstep/graph/recording.h"

#include "halfstep/autocast/half_rehearsal.h"

#include <utility>

#include <c10/core/DefaultDtype.h>
#include <c10/core/GradMode.h>

namespace halfstep::detail {

RecordingKey RecordingKey::of(const std::vector<at::Tensor>& inputs,
                              std::vector<size_t> structure) {
  RecordingKey key{std::move(structure),
                   {},
                   c10::GradMode::is_enabled(),
                   HalfRehearsal::is_enabled(),
                   c10::get_default_dtype_as_scalartype()};
  key.inputs.reserve(inputs.size());
  for (const auto& input : inputs) {
    key.inputs.push_back(input.defined() ? Geometry::of(input) : Geometry());
    key.inputs.back().offset = 0;
    key.structure.push_back(input.defined() && input.requires_grad() ? 1 : 0);
  }
  return key;
}

}  // namespace halfstep::detail
