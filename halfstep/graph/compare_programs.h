#pragma once
#include "halfstep/graph/call_place.h"
#include "halfstep/graph/program.h"

#include <optional>
#include <string>

namespace halfstep::detail {

/// Where two recordings of a step differ but for the values in tensors, as a clause of a message;
/// none where a replay of one does what the other did. Calls are named with their place.
std::optional<std::string> difference(const CallPlaces& places, const Program& first,
                                      const Program& second);

/// Whether two calls are of one op with the same operands and other arguments.
bool same_call(const Instruction& first, const Instruction& second);

}  // namespace halfstep::detail
