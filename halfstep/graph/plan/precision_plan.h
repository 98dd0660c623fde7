#pragma once
#include "halfstep/graph/plan/op_graph.h"

#include <iosfwd>
#include <string>
#include <vector>

#include <c10/core/ScalarType.h>

namespace halfstep {

/// A value's cast, made once for all nodes that need it.
struct PlanCast {
  size_t value;
  c10::ScalarType dtype;      ///< what it is cast to
  std::vector<size_t> nodes;  ///< who reads it so, in their order
};

/// Which ops of a Graph's forward run in 16 bits and which in float32, by OneFlow's algorithm of
/// four colors. A Graph makes one where its config says so; it can be printed, saved, loaded and
/// changed:
///
///   train.config().enable_amp(true, torch::kBFloat16).plan_precision();
///   train(x, y);
///   auto plan = train.precision_plan();
///   std::cout << plan;
///   plan.set("softmax", halfstep::OpColor::black);  // and what gray and clear comes after it
///   train.config().set_precision_plan(plan);
///
/// A change colors the whole plan anew. White (where its result is float32 without a plan) means 16
/// bits in any case, black and unlisted mean float32; black also for gray and clear ops after it.
/// A value.
class PrecisionPlan {
 public:
  /// Plans nothing.
  PrecisionPlan() = default;
  /// Colors a forward pass. `dtype`: float16 or bfloat16. Throws UsageError for another, and for a
  /// graph whose nodes name values or nodes that come later or are not there.
  PrecisionPlan(OpGraph graph, c10::ScalarType dtype);

  /// Whether there is nothing planned.
  bool empty() const { return graph_.nodes.empty(); }

  /// What it calls 16 bits: float16 or bfloat16.
  c10::ScalarType dtype() const { return dtype_; }

  const OpGraph& graph() const { return graph_; }
  const std::vector<PlanNode>& nodes() const { return graph_.nodes; }

  /// Whether a node runs in 16 bits.
  bool is_low(size_t node) const { return low_.at(node); }

  /// The casts it needs, by value: one for each value at most.
  std::vector<PlanCast> casts() const;

  /// Gives every call of an op ("addmm"; "softmax" for all its overloads, "softmax.int" for one;
  /// "output" for what build returns) a color. Throws UsageError, with the nearest name, where
  /// there is none.
  PrecisionPlan& set(const std::string& op, OpColor color);

  /// The same for one node by its number. Throws UsageError for one that is not there.
  PrecisionPlan& set_node(size_t node, OpColor color);

  /// The same for all nodes of the modules of a path: of exactly that path, or of all that the
  /// regular expression (ECMAScript's) matches whole. Throws UsageError where no node is of such a
  /// module.
  PrecisionPlan& module(const std::string& path, OpColor color);

  /// As text, one line a node: "3 white: %2 float32 = addmm("fc.bias", %1, %0) in "fc"  #
  /// bfloat16". What stands behind # (what came of the colors, and the casts) is for the reader.
  std::string to_string() const;

  /// The plan of such a text; colors may have been changed in it. Throws UsageError that names the
  /// line for text that is none. `name` stands for the text in messages.
  static PrecisionPlan parse(const std::string& text, const std::string& name = "text");

  /// Writes to_string() to a file, and reads it. Throws EnvironmentError where the disk fails, and
  /// UsageError as parse() does.
  void save(const std::string& path) const;
  static PrecisionPlan load(const std::string& path);

  /// As a Graphviz digraph: nodes filled in their color, with a double frame where they run in 16
  /// bits; casts as small boxes. `dot -Tsvg`.
  std::string to_graphviz() const;

  bool operator==(const PrecisionPlan&) const = default;

 private:
  bool needs_cast(size_t node, const PlanNode::Operand& operand) const;

  OpGraph graph_;
  c10::ScalarType dtype_ = c10::kBFloat16;
  std::vector<bool> low_;
};

/// Prints to_string().
std::ostream& operator<<(std::ostream& stream, const PrecisionPlan& plan);

}  // namespace halfstep
