#include "halfstep/graph/plan/precision_plan.h"

#include "halfstep/core/dtype.h"
#include "halfstep/core/error.h"
#include "halfstep/core/nearest.h"
#include "halfstep/core/path_patterns.h"
#include "halfstep/graph/plan/color_graph.h"

#include <algorithm>
#include <map>
#include <ostream>
#include <set>
#include <utility>

namespace halfstep {

namespace {

constexpr const char* kPrecisionPlanWhere = "PrecisionPlan";

void on_one_line(std::string& text) {
  std::replace_if(
      text.begin(), text.end(), [](char c) { return c >= 0 && c < ' '; }, ' ');
}

/// The graph with what comes from outside first among its values, by first use and each with a name
/// of its own, and then results, in the order they are made. Throws where it is none.
OpGraph in_order(OpGraph graph) {
  std::vector<size_t> to(graph.values.size(), graph.values.size());
  std::vector<PlanValue> values;
  std::set<std::string> names;
  const auto add = [&](size_t value) {
    to[value] = values.size();
    values.push_back(std::move(graph.values[value]));
  };
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    const auto& node = graph.nodes[i];
    bool right = !node.with || *node.with < i;
    for (const auto& operand : node.operands)
      right = right && operand.value < graph.values.size() &&
              graph.values[operand.value].producer.value_or(0) < std::max(i, size_t{1});
    for (const auto result : node.results)
      right = right && result < graph.values.size() && graph.values[result].producer == i;
    HALFSTEP_CHECK_USAGE(right, kPrecisionPlanWhere,
                         "nodes must use values and nodes that come before them, but node ", i,
                         ", ", node.op, ", does not; number them in the order they run");
  }
  for (const auto& node : graph.nodes) {
    for (const auto& operand : node.operands) {
      if (graph.values[operand.value].producer || to[operand.value] < graph.values.size()) continue;
      add(operand.value);
      auto& name = values.back().name;
      on_one_line(name);
      if (name.empty()) name = "tensor";
      const auto base = name;
      for (int number = 2; !names.insert(name).second; ++number)
        name = base + " (" + std::to_string(number) + ")";
    }
  }
  for (const auto& node : graph.nodes) {
    for (const auto result : node.results) {
      HALFSTEP_CHECK_USAGE(to[result] == graph.values.size(), kPrecisionPlanWhere,
                           "a value must be the result of one node, but one of ", node.op,
                           " is listed twice; list it once");
      add(result);
      values.back().name.clear();
    }
  }
  for (auto& node : graph.nodes) {
    on_one_line(node.module);
    for (auto& operand : node.operands) {
      operand.value = to[operand.value];
      HALFSTEP_CHECK_USAGE(operand.value < values.size(), kPrecisionPlanWhere,
                           "a value that a node makes must be among its results, but an operand "
                           "of ",
                           node.op, " is not; list it there");
    }
    for (auto& result : node.results) result = to[result];
  }
  graph.values = std::move(values);
  return graph;
}

/// "softmax" of "softmax.int".
std::string without_overload(const std::string& op) {
  return op.substr(0, op.find('.'));
}

}  // namespace

PrecisionPlan::PrecisionPlan(OpGraph graph, c10::ScalarType dtype)
    : graph_(in_order(std::move(graph))), dtype_(dtype) {
  HALFSTEP_CHECK_USAGE(is_low_precision(dtype), kPrecisionPlanWhere,
                       "dtype must be float16 or bfloat16, but got ", dtype_name(dtype),
                       "; use torch::kBFloat16");
  low_ = detail::low_nodes(graph_);
}

bool PrecisionPlan::needs_cast(size_t node, const PlanNode::Operand& operand) const {
  const auto& value = graph_.values[operand.value];
  if (!detail::is_planned(value)) return false;
  const bool has = value.producer && low_[*value.producer];
  return has != (low_[node] && !operand.stays_float32);
}

std::vector<PlanCast> PrecisionPlan::casts() const {
  std::map<size_t, PlanCast> casts;
  for (size_t i = 0; i < graph_.nodes.size(); ++i) {
    for (const auto& operand : graph_.nodes[i].operands) {
      if (!needs_cast(i, operand)) continue;
      const auto& producer = graph_.values[operand.value].producer;
      const auto to = producer && low_[*producer] ? c10::kFloat : dtype_;
      auto& cast = casts.try_emplace(operand.value, PlanCast{operand.value, to, {}}).first->second;
      if (cast.nodes.empty() || cast.nodes.back() != i) cast.nodes.push_back(i);
    }
  }
  std::vector<PlanCast> all;
  all.reserve(casts.size());
  for (auto& [value, cast] : casts) all.push_back(std::move(cast));
  return all;
}

PrecisionPlan& PrecisionPlan::set(const std::string& op, OpColor color) {
  bool found = false;
  std::set<std::string> names;
  for (auto& node : graph_.nodes) {
    names.insert({node.op, without_overload(node.op)});
    if (node.op != op && without_overload(node.op) != op) continue;
    node.color = color;
    found = true;
  }
  const std::vector<std::string> known(names.begin(), names.end());
  const auto hint = suggest(op, known);
  HALFSTEP_CHECK_USAGE(found, kPrecisionPlanWhere,
                       "an op must be one that the plan calls, but got '", op, "'; ",
                       hint.empty() ? "print the plan for their names" : hint);
  low_ = detail::low_nodes(graph_);
  return *this;
}

PrecisionPlan& PrecisionPlan::set_node(size_t node, OpColor color) {
  HALFSTEP_CHECK_USAGE(node < graph_.nodes.size(), kPrecisionPlanWhere,
                       "a node must be one of the plan's ", graph_.nodes.size(), ", but got ", node,
                       "; they are numbered from 0 in the order they run");
  graph_.nodes[node].color = color;
  low_ = detail::low_nodes(graph_);
  return *this;
}

PrecisionPlan& PrecisionPlan::module(const std::string& path, OpColor color) {
  std::set<std::string> paths;
  for (const auto& node : graph_.nodes) paths.insert(node.module);
  const detail::PathPattern pattern(kPrecisionPlanWhere, path, /*exact=*/paths.count(path) != 0);
  bool found = false;
  for (auto& node : graph_.nodes) {
    if (node.module.empty() || !pattern.matches(node.module)) continue;
    node.color = color;
    found = true;
  }
  const auto hint = suggest(pattern.literal_part(), {paths.begin(), paths.end()});
  HALFSTEP_CHECK_USAGE(found, kPrecisionPlanWhere,
                       "a module must be one that nodes of the plan belong to, but "
                       "got '",
                       path, "'; ", hint.empty() ? "print the plan for their paths" : hint);
  low_ = detail::low_nodes(graph_);
  return *this;
}

std::ostream& operator<<(std::ostream& stream, const PrecisionPlan& plan) {
  return stream << plan.to_string();
}

}  // namespace halfstep
