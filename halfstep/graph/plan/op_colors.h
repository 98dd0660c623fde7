#pragma once
#include "halfstep/autocast/op_policy.h"
#include "halfstep/graph/plan/op_graph.h"

#include <ATen/core/dispatch/Dispatcher.h>

namespace halfstep::detail {

/// The colors of op calls by an OpPolicy: lower_precision is white, promote and promote_or_lower
/// are gray, keep is clear, the rules of float32 are black; its rules by module and by ModuleScope
/// hold, too. amp_white_identity is white and amp_black_identity black where it does not name them.
/// An op that writes in place (`add_`) has the color of the one that does not.
class OpColors {
 public:
  explicit OpColors(OpPolicy policy) : policy_(std::move(policy)) {}

  /// The color of a call. Throws UsageError for one that the policy bans.
  OpColor of(const c10::OperatorHandle& op, c10::ArrayRef<c10::IValue> arguments) const;

 private:
  OpPolicy policy_;
};

}  // namespace halfstep::detail
