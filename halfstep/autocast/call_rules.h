#pragma once
#include "halfstep/autocast/cast_rule.h"

#include <optional>
#include <string>
#include <vector>

#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/util/ArrayRef.h>

namespace halfstep::detail {

/// Rules of an OpPolicy that depend on a call's arguments or on where it happens, not on the op's
/// name alone: OpPolicy::add_call_rules. Called on any thread, several at once.
class CallRules {
 public:
  virtual ~CallRules() = default;

  /// The ops it may speak of, as in OpPolicy::table(). Others are never asked about, unless they
  /// have a kernel already.
  virtual std::vector<std::string> ops() const = 0;

  /// The rule of one call: `by_name` (the op's own, none where it has none) or another. On the way
  /// of every op call in the region, so it must be quick; it must not call ops.
  virtual std::optional<CastRule> rule(const c10::OperatorHandle& op,
                                       std::optional<CastRule> by_name,
                                       c10::ArrayRef<c10::IValue> arguments) const = 0;
};

}  // namespace halfstep::detail
