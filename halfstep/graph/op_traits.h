#pragma once
#include <optional>
#include <string>

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/ivalue.h>

namespace halfstep::detail {

/// What the recorder must know of an op beyond its schema.

/// How a call uses one of its tensor arguments.
enum class ArgumentUse {
  metadata,  ///< sizes, dtype and device only, or it makes a view of it
  read,
  write,  ///< writes all of it and reads nothing
  read_write,
};

/// The use of argument `index`. Batch norm changes its running statistics and does not say so in
/// its schema.
ArgumentUse argument_use(const c10::OperatorHandle& op, size_t index,
                         c10::ArrayRef<c10::IValue> arguments);

/// Whether its result's memory is left as it was found.
bool makes_unwritten(const c10::OperatorHandle& op);

/// Whether a call only asks for metadata and need not be repeated.
bool is_question(const c10::OperatorHandle& op);

/// Why a call can't be recorded and what to do instead, as the second half of an error message;
/// none where it can.
std::optional<std::string> why_not_recorded(const c10::OperatorHandle& op,
                                            c10::ArrayRef<c10::IValue> arguments);

}  // namespace halfstep::detail
