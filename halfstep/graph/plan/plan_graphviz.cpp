// A PrecisionPlan as a Graphviz digraph.
#include "halfstep/core/dtype.h"
#include "halfstep/graph/plan/line_reader.h"
#include "halfstep/graph/plan/precision_plan.h"

#include <sstream>
#include <string>

namespace halfstep {

namespace {

const char* fill_of(OpColor color) {
  switch (color) {
    case OpColor::white:
      return "white";
    case OpColor::gray:
      return "gray80";
    case OpColor::black:
      return "gray30\", fontcolor=\"white";
    case OpColor::clear:
      return "lightcyan";
    case OpColor::unlisted:
      return "mistyrose";
  }
  return "";
}

}  // namespace

std::string PrecisionPlan::to_graphviz() const {
  std::ostringstream out;
  out << "digraph precision_plan {\n  node [shape=box, style=filled];\n";
  for (size_t i = 0; i < graph_.nodes.size(); ++i) {
    const auto& node = graph_.nodes[i];
    auto label = std::to_string(i) + " " + node.op;
    if (!node.module.empty()) label += " in " + node.module;
    out << "  n" << i << " [label=" << detail::quote(label) << ", fillcolor=\""
        << fill_of(node.color) << "\", peripheries=" << (low_[i] ? 2 : 1) << "];\n";
  }
  for (const auto& cast : casts()) {
    out << "  c" << cast.value << " [label=\"to " << dtype_name(cast.dtype)
        << "\", shape=ellipse, fontsize=10, fillcolor=\"lightyellow\"];\n";
  }
  const auto from = [&](size_t value) {
    const auto& producer = graph_.values[value].producer;
    return (producer ? "n" + std::to_string(*producer) : "v" + std::to_string(value));
  };
  for (size_t value = 0; value < graph_.values.size(); ++value) {
    if (!graph_.values[value].producer)
      out << "  v" << value << " [label=" << detail::quote(graph_.values[value].name)
          << ", shape=plaintext, style=\"\"];\n";
  }
  for (const auto& cast : casts())
    out << "  " << from(cast.value) << " -> c" << cast.value << ";\n";
  for (size_t i = 0; i < graph_.nodes.size(); ++i) {
    for (const auto& operand : graph_.nodes[i].operands) {
      const bool cast = needs_cast(i, operand);
      out << "  " << (cast ? "c" + std::to_string(operand.value) : from(operand.value)) << " -> n"
          << i << ";\n";
    }
  }
  return out.str() + "}\n";
}

}  // namespace halfstep
