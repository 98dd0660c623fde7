#pragma once
#include "halfstep/graph/program.h"

#include <optional>

#include <ATen/core/dispatch/Dispatcher.h>

namespace halfstep::detail {

/// The op that computes what `op` does and writes it into tensors it is given, its last arguments,
/// as mm.out for mm; none where LibTorch has no kernel of its own for it on the CPU (it then
/// computes and copies).
std::optional<c10::OperatorHandle> out_op_of(const c10::OperatorHandle& op);

/// The same with what it is given between the arguments of `op` and those tensors. relu has one,
/// too: LibTorch's calls clamp_min, which has.
std::optional<Instruction::Placed> placed_call(const c10::OperatorHandle& op);

}  // namespace halfstep::detail
