#pragma once
#include "halfstep/graph/program.h"

#include <optional>
#include <string>

namespace torch::nn {
class Module;
}

namespace halfstep::detail {

/// Where two recordings of a step differ but for the values in tensors, as a clause of a message;
/// none where a replay of one does what the other did. Calls are named with their module below
/// `root`.
std::optional<std::string> difference(const torch::nn::Module& root, const Program& first,
                                      const Program& second);

/// Whether two calls are of one op with the same operands and other arguments.
bool same_call(const Instruction& first, const Instruction& second);

}  // namespace halfstep::detail
