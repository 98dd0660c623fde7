#pragma once
#include "halfstep/graph/program.h"

#include <optional>
#include <vector>

namespace halfstep::detail {

/// Whether a call only computes its results from its operands: it writes nothing, draws no random
/// numbers, and its result does not come as it was found.
bool is_pure(const Instruction& instruction);

/// Up to 64 KiB. A larger result takes longer to compute than its tensor to make, and in memory of
/// its own it would stand beside the plan for the others (ReplayMemory).
bool is_small(const Geometry& geometry);

/// Whether all results lie in the memory of the operands.
bool is_view(const Program& program, const Instruction& instruction);

/// For each memory, whether a call writes into it, or an output or gradient lies in it.
std::vector<bool> shared_memories(const Program& program);

/// The value in the place of argument `argument`, outside of lists.
std::optional<ValueId> operand_of(const Instruction& instruction, int32_t argument);

/// Result number `result`, where the program keeps it.
std::optional<ValueId> result_of(const Instruction& instruction, int32_t result);

/// Whether tensors of the two have their elements in the same places; their dtypes may differ.
bool lie_alike(const Geometry& a, const Geometry& b);

/// Which calls of a program name what lies in a memory, by their indices when this was made.
class MemoryCalls {
 public:
  explicit MemoryCalls(const Program& program);

  /// In order, views and writes too.
  const std::vector<size_t>& of(ValueId id) const { return calls_[memory_of(id)]; }
  bool touched(ValueId id, size_t after, size_t before) const;
  bool written(ValueId id, size_t after, size_t before) const;
  /// Whether an output or gradient lies in it.
  bool handed_out(ValueId id) const { return handed_out_[memory_of(id)]; }
  /// Whether it is there when the program ends: an input, parameter or constant lies in it.
  bool lives_on(ValueId id) const { return lives_on_[memory_of(id)]; }
  /// Whether what is in it comes from call `first` and only call `last` looks at it.
  bool only(ValueId id, size_t first, size_t last) const {
    return !handed_out(id) && of(id) == std::vector<size_t>{first, last};
  }
  bool same(ValueId a, ValueId b) const { return memory_of(a) == memory_of(b); }

 private:
  size_t memory_of(ValueId id) const { return memory_[static_cast<size_t>(id)]; }

  std::vector<size_t> memory_;  // of each value
  std::vector<std::vector<size_t>> calls_, writes_;
  std::vector<bool> handed_out_, lives_on_;
};

/// Puts `to[id]` in the place of each value that operands, outputs and gradients name; what shares
/// its memory shares that one's from then on.
void rename(Program& program, const std::vector<ValueId>& to);

}  // namespace halfstep::detail
