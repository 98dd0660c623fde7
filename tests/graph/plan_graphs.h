#pragma once
#include "halfstep/graph/plan/op_graph.h"

#include <initializer_list>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace halfstep::testing {

/// Writes an OpGraph down op by op: each returns its result.
struct GraphWriter {
  size_t outside(const std::string& name, const std::string& type = "float32") {
    graph.values.push_back({name, type, std::nullopt});
    return graph.values.size() - 1;
  }
  size_t op(const std::string& name, OpColor color, const std::vector<size_t>& operands,
            const std::string& type = "float32") {
    PlanNode node{name, color};
    for (const auto value : operands) node.operands.push_back({value});
    node.results.push_back(graph.values.size());
    graph.values.push_back({"", type, graph.nodes.size()});
    graph.nodes.push_back(std::move(node));
    return graph.values.size() - 1;
  }
  void output(size_t value) { op("output", OpColor::unlisted, {value}); }

  OpGraph graph;
};

}  // namespace halfstep::testing
