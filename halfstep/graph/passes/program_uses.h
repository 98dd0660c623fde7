#pragma once
#include "halfstep/graph/program.h"

#include <vector>

namespace halfstep::detail {

/// Whether a call only computes its results from its operands: it writes nothing, draws no random
/// numbers, and its result does not come as it was found.
bool is_pure(const Instruction& instruction);

/// Whether all results lie in the memory of the operands.
bool is_view(const Program& program, const Instruction& instruction);

/// For each memory, whether a call writes into it, or an output or gradient lies in it.
std::vector<bool> shared_memories(const Program& program);

/// Puts `to[id]` in the place of each value that operands, outputs and gradients name.
void rename(Program& program, const std::vector<ValueId>& to);

}  // namespace halfstep::detail
