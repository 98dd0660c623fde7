#pragma once
#include "halfstep/graph/plan/op_graph.h"

#include <vector>

namespace halfstep::detail {

/// Which nodes run in 16 bits, by OneFlow's algorithm:
///
/// 1. Black spreads forward from black nodes through gray and clear ones that lead to a gray or
///    black node.
/// 2. White nodes run in 16 bits, and gray and clear ones that are not reached by black, come after
///    a white node and lead to one (or are the last of their line).
/// 3. Then clear nodes beside them, first downwards, then upwards.
///
/// As there, a gray or clear node that has no operands at all counts as reached. Nodes that share
/// written memory (PlanNode::with) are colored as one: black before unlisted before white before
/// gray before clear. A node without a float32 result is never in 16 bits.
std::vector<bool> low_nodes(const OpGraph& graph);

}  // namespace halfstep::detail
