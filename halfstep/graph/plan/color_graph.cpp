#include "halfstep/graph/plan/color_graph.h"

#include <algorithm>
#include <functional>
#include <numeric>

namespace halfstep::detail {

namespace {

using Set = std::vector<bool>;
using Neighbours = std::vector<std::vector<size_t>>;

/// The nodes of a graph, those that share written memory as one. It may have cycles then, so
/// sets spread over it by a list of what is to do, not in topological order.
struct Groups {
  explicit Groups(const OpGraph& graph);

  std::vector<size_t> of_node;  // the group's first node stands for it
  std::vector<OpColor> colors;
  Set allowed;  // may run in 16 bits
  Set has_operands, has_users;
  Neighbours before, after;
};

size_t find(std::vector<size_t>& of_node, size_t node) {
  while (of_node[node] != node) {
    of_node[node] = of_node[of_node[node]];
    node = of_node[node];
  }
  return node;
}

/// The stricter of two colors.
OpColor merged(OpColor a, OpColor b) {
  for (const auto color : {OpColor::black, OpColor::unlisted, OpColor::white, OpColor::gray}) {
    if (a == color || b == color) return color;
  }
  return OpColor::clear;
}

Groups::Groups(const OpGraph& graph) : of_node(graph.nodes.size()) {
  const auto count = graph.nodes.size();
  std::iota(of_node.begin(), of_node.end(), size_t{0});
  for (size_t i = 0; i < count; ++i) {
    if (!graph.nodes[i].with) continue;
    const auto a = find(of_node, i), b = find(of_node, *graph.nodes[i].with);
    of_node[std::max(a, b)] = std::min(a, b);
  }
  for (size_t i = 0; i < count; ++i) of_node[i] = find(of_node, i);
  colors.assign(count, OpColor::clear);
  allowed.assign(count, true);
  has_operands.assign(count, false);
  has_users.assign(count, false);
  before.resize(count);
  after.resize(count);
  for (size_t i = 0; i < count; ++i) {
    const auto& node = graph.nodes[i];
    const auto group = of_node[i];
    colors[group] = merged(colors[group], node.color);
    const bool computes = std::any_of(node.results.begin(), node.results.end(), [&](size_t value) {
      return is_planned(graph.values[value]);
    });
    if (node.fixed || !computes) allowed[group] = false;
    for (const auto& operand : node.operands) {
      const auto& producer = graph.values[operand.value].producer;
      if (!producer) {
        has_operands[group] = true;
        continue;
      }
      const auto from = of_node[*producer];
      if (from == group) continue;
      has_operands[group] = has_users[from] = true;
      before[group].push_back(from);
      after[from].push_back(group);
    }
  }
}

/// Adds to `set` what it reaches by `next` through nodes that may enter, and those that may and
/// have no `origin`.
void spread(Set& set, const Neighbours& next, const Set& has_origin, const Groups& groups,
            const std::function<bool(size_t)>& may_enter) {
  std::vector<size_t> to_do;
  for (size_t i = 0; i < set.size(); ++i) {
    if (groups.of_node[i] != i) continue;
    if (!set[i] && !has_origin[i] && may_enter(i)) set[i] = true;
    if (set[i]) to_do.push_back(i);
  }
  while (!to_do.empty()) {
    const auto node = to_do.back();
    to_do.pop_back();
    for (const auto other : next[node]) {
      if (set[other] || !may_enter(other)) continue;
      set[other] = true;
      to_do.push_back(other);
    }
  }
}

}  // namespace

std::vector<bool> low_nodes(const OpGraph& graph) {
  const Groups groups(graph);
  const auto count = graph.nodes.size();
  const auto is = [&](size_t node, OpColor color) { return groups.colors[node] == color; };
  const auto collect = [&](const auto& start) {
    Set set(count);
    for (size_t i = 0; i < count; ++i) set[i] = groups.of_node[i] == i && start(i);
    return set;
  };

  Set leads_to_gray =
      collect([&](size_t i) { return is(i, OpColor::black) || is(i, OpColor::gray); });
  spread(leads_to_gray, groups.before, groups.has_users, groups,
         [&](size_t i) { return is(i, OpColor::clear); });
  Set black = collect([&](size_t i) { return is(i, OpColor::black); });
  spread(black, groups.after, groups.has_operands, groups,
         [&](size_t i) { return leads_to_gray[i]; });

  const auto passes = [&](size_t i) {
    return groups.allowed[i] && (is(i, OpColor::gray) || is(i, OpColor::clear));
  };
  const auto is_white = [&](size_t i) { return groups.allowed[i] && is(i, OpColor::white); };
  Set leads_to_white =
      collect([&](size_t i) { return is_white(i) || (!groups.has_users[i] && passes(i)); });
  spread(leads_to_white, groups.before, groups.has_users, groups,
         [&](size_t i) { return !black[i] && passes(i); });
  Set white = collect(is_white);
  spread(white, groups.after, groups.has_operands, groups,
         [&](size_t i) { return leads_to_white[i]; });

  const auto is_free = [&](size_t i) {
    return !black[i] && groups.allowed[i] && is(i, OpColor::clear);
  };
  spread(white, groups.after, groups.has_operands, groups, is_free);
  spread(white, groups.before, groups.has_users, groups, is_free);

  Set low(count);
  for (size_t i = 0; i < count; ++i) low[i] = white[groups.of_node[i]];
  return low;
}

}  // namespace halfstep::detail
