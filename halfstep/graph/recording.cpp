#include "halfstep/graph/recording.h"

#include "halfstep/autocast/half_rehearsal.h"
#include "halfstep/core/dtype.h"

#include <utility>

#include <c10/core/DefaultDtype.h>
#include <c10/core/GradMode.h>

namespace halfstep::detail {

namespace {

const Geometry kUndefined{.sizes = {}, .strides = {}, .dtype = c10::ScalarType::Undefined};

std::string input_text(const Geometry& input) {
  if (input == kUndefined) return "undefined";
  return input.to_string() + (input.device.is_cpu() ? "" : " on " + input.device.str());
}

}  // namespace

RecordingKey RecordingKey::of(const std::vector<at::Tensor>& inputs,
                              std::vector<size_t> structure) {
  RecordingKey key{std::move(structure),
                   {},
                   c10::GradMode::is_enabled(),
                   HalfRehearsal::is_enabled(),
                   c10::get_default_dtype_as_scalartype()};
  key.inputs.reserve(inputs.size());
  for (const auto& input : inputs) {
    key.inputs.push_back(input.defined() ? Geometry::of(input) : kUndefined);
    key.inputs.back().offset = 0;
    key.structure.push_back(input.defined() && input.requires_grad() ? 1 : 0);
  }
  return key;
}

size_t RecordingKey::distance(const RecordingKey& other) const {
  size_t distance = (gradients != other.gradients ? 1 : 0) +
                    (rehearsal != other.rehearsal ? 1 : 0) +
                    (default_dtype != other.default_dtype ? 1 : 0);
  if (inputs.size() != other.inputs.size()) return distance + inputs.size() + other.inputs.size();
  for (size_t i = 0; i < inputs.size(); ++i) distance += inputs[i] == other.inputs[i] ? 0 : 1;
  return distance + (structure == other.structure ? 0 : 1);
}

std::string RecordingKey::difference_from(const RecordingKey& other) const {
  if (gradients != other.gradients)
    return gradients ? "gradients are recorded again" : "gradients are not recorded (NoGradGuard)";
  if (rehearsal != other.rehearsal)
    return rehearsal ? "float16 is rehearsed" : "float16 is rehearsed no more";
  if (default_dtype != other.default_dtype)
    return std::string("the default dtype became ") + dtype_name(default_dtype);
  if (inputs.size() != other.inputs.size())
    return c10::str("there are ", inputs.size(), " input tensors, not ", other.inputs.size());
  for (size_t i = 0; i < inputs.size(); ++i) {
    const auto &now = inputs[i], &then = other.inputs[i];
    if (now == then) continue;
    if (now.sizes == then.sizes && now.dtype == then.dtype && now.device == then.device)
      return c10::str("input ", i, " lies otherwise in its memory (strides)");
    return "input " + std::to_string(i) + " is " + input_text(now) + ", not " + input_text(then);
  }
  return "inputs are nested otherwise";
}

}  // namespace halfstep::detail
