// OneFlow's coloring, worked out by hand and held against its own words on random graphs.
#include "halfstep/graph/plan/color_graph.h"

#include "halfstep/graph/plan/precision_plan.h"

#include <algorithm>
#include <functional>
#include <map>
#include <random>
#include <set>

#include "tests/graph/plan_graphs.h"
#include <gtest/gtest.h>

namespace {

using halfstep::OpColor;
using halfstep::OpGraph;
using halfstep::PrecisionPlan;
using halfstep::detail::low_nodes;
using halfstep::testing::GraphWriter;

constexpr auto white = OpColor::white, gray = OpColor::gray, black = OpColor::black,
               clear = OpColor::clear, unlisted = OpColor::unlisted;

using Low = std::vector<bool>;

TEST(ColorGraph, AClearOpBetweenProductsIsLowAndALossAfterThemIsNot) {
  GraphWriter g;
  const auto x = g.outside("x"), w = g.outside("w"), v = g.outside("v");
  const auto h = g.op("relu", clear, {g.op("matmul", white, {x, w})});
  g.output(g.op("cross_entropy_loss", gray, {g.op("matmul", white, {h, v})}));
  EXPECT_EQ(low_nodes(g.graph), (Low{true, true, true, false, false}));
}

TEST(ColorGraph, AGrayOpIsLowBetweenWhiteOnesAndNowhereElse) {
  GraphWriter g;
  const auto x = g.outside("x"), w = g.outside("w");
  const auto before = g.op("layer_norm", gray, {x});
  const auto first = g.op("matmul", white, {before, w});
  const auto between = g.op("gelu", gray, {first});
  const auto second = g.op("matmul", white, {between, w});
  g.output(g.op("softmax", gray, {second}));
  EXPECT_EQ(low_nodes(g.graph), (Low{false, true, true, true, false, false}));
}

TEST(ColorGraph, AnUnlistedOpStopsWhatSpreads) {
  GraphWriter g;
  const auto x = g.outside("x"), w = g.outside("w");
  const auto product = g.op("matmul", white, {x, w});
  const auto stop = g.op("exp", unlisted, {product});
  const auto after = g.op("add", gray, {stop, x});
  g.output(g.op("matmul", white, {after, w}));
  EXPECT_EQ(low_nodes(g.graph), (Low{true, false, false, true, false}));
}

TEST(ColorGraph, BlackSpreadsForwardToGrayOpsAndThroughClearOnesThatLeadToThem) {
  GraphWriter g;
  const auto x = g.outside("x"), w = g.outside("w");
  const auto product = g.op("matmul", white, {x, w});
  const auto marked = g.op("black", black, {product});
  const auto moved = g.op("reshape", clear, {marked});
  const auto added = g.op("add", gray, {moved, product});
  g.output(g.op("matmul", white, {added, w}));
  EXPECT_EQ(low_nodes(g.graph), (Low{true, false, false, false, true, false}));
}

TEST(ColorGraph, AClearOpAfterBlackThatLeadsToWhiteAloneIsLow) {
  GraphWriter g;
  const auto x = g.outside("x"), w = g.outside("w");
  const auto marked = g.op("black", black, {x});
  const auto moved = g.op("reshape", clear, {marked});
  g.output(g.op("matmul", white, {moved, w}));
  EXPECT_EQ(low_nodes(g.graph), (Low{false, true, true, false}));
}

TEST(ColorGraph, ClearOpsBesideLowOnesAreLowDownwardsThenUpwards) {
  GraphWriter g;
  const auto x = g.outside("x"), w = g.outside("w");
  const auto t = g.op("t", clear, {w});
  const auto product = g.op("matmul", white, {x, t});
  const auto below = g.op("reshape", clear, {product});
  const auto beside = g.op("relu", clear, {x});  // clear, above `below` alone
  const auto joined = g.op("cat", clear, {below, beside});
  g.output(joined);
  g.output(g.op("relu", clear, {x}));  // beside nothing
  const Low expected{true, true, true, true, true, false, false, false};
  EXPECT_EQ(low_nodes(g.graph), expected);
}

TEST(ColorGraph, AGrayOpThatNothingFollowsIsLowAfterAWhiteOne) {
  GraphWriter g;
  const auto x = g.outside("x"), w = g.outside("w");
  g.op("softmax", gray, {g.op("matmul", white, {x, w})});
  g.op("softmax", gray, {x});
  EXPECT_EQ(low_nodes(g.graph), (Low{true, true, false}));
}

TEST(ColorGraph, NodesThatShareWrittenMemoryAreOneColor) {
  GraphWriter g;
  const auto x = g.outside("x"), w = g.outside("w");
  const auto product = g.op("matmul", white, {x, w});
  const auto added = g.op("add_", gray, {product, x});
  g.output(added);
  g.graph.nodes[1].with = 0;
  EXPECT_EQ(low_nodes(g.graph), (Low{true, true, false}));
  g.graph.nodes[1].color = unlisted;  // exp_: float32, so the product is, too
  EXPECT_EQ(low_nodes(g.graph), (Low{false, false, false}));
  g.graph.nodes[1].color = gray;
  g.graph.nodes[1].fixed = true;
  EXPECT_EQ(low_nodes(g.graph), (Low{false, false, false}));
}

TEST(ColorGraph, AnOpWithoutAFloat32ResultIsNeverLow) {
  GraphWriter g;
  const auto x = g.outside("x"), w = g.outside("w");
  g.op("argmax", clear, {g.op("matmul", white, {x, w})}, "int64");
  g.op("matmul", white, {x, w}, "bfloat16");
  EXPECT_EQ(low_nodes(g.graph), (Low{true, false, false}));
}

TEST(ColorGraph, CastsAreOnceForEachValue) {
  GraphWriter g;
  const auto x = g.outside("x"), w = g.outside("w"), index = g.outside("index", "int64");
  const auto a = g.op("matmul", white, {x, w}), b = g.op("matmul", white, {x, a});
  const auto loss = g.op("loss", unlisted, {b, index});
  g.output(g.op("sum", unlisted, {loss, b}));
  const auto norm = g.op("batch_norm", white, {b, w});
  g.graph.nodes.back().operands[1].stays_float32 = true;
  g.output(norm);
  const PrecisionPlan plan(g.graph, c10::kHalf);
  std::vector<std::string> casts;
  for (const auto& cast : plan.casts()) {
    std::string text = c10::str(cast.value, cast.dtype == c10::kHalf ? " low" : " float32");
    for (const auto node : cast.nodes) text += " " + std::to_string(node);
    casts.push_back(text);
  }
  // Values in order: x, w, index, then results.
  EXPECT_EQ(casts,
            (std::vector<std::string>{"0 low 0 1", "1 low 0", "4 float32 2 3", "8 float32 6"}));
}

// What pass_util.cpp and auto_mixed_precision.cpp say: nodes in topological order, forwards or
// backwards, each handled where it is a start, or may be and has no neighbour there or one that was
// handled.
class InOneFlowsWords {
 public:
  explicit InOneFlowsWords(const OpGraph& graph) : graph_(graph) {}

  Low low() const {
    const auto in = [this](size_t i, std::set<OpColor> colors) {
      return colors.count(graph_.nodes[i].color) != 0;
    };
    Low upstream(size()), black_set(size()), of_white(size()), white_set(size());
    traverse(
        true,
        [&](size_t i) {
          return in(i, {black, gray});
        },
        [&](size_t i) { return in(i, {clear}); }, upstream);
    traverse(
        false, [&](size_t i) { return in(i, {black}); },
        [&](size_t i) { return bool(upstream[i]); }, black_set);
    const auto allowed = [&](size_t i) {
      return std::any_of(graph_.nodes[i].results.begin(), graph_.nodes[i].results.end(),
                         [&](size_t v) { return graph_.values[v].type == "float32"; });
    };
    traverse(
        true,
        [&](size_t i) {
          return allowed(i) &&
                 (in(i, {white}) || (neighbours(i, false).empty() && in(i, {gray, clear})));
        },
        [&](size_t i) {
          return !black_set[i] && allowed(i) && in(i, {gray, clear});
        },
        of_white);
    traverse(
        false, [&](size_t i) { return allowed(i) && in(i, {white}); },
        [&](size_t i) { return bool(of_white[i]); }, white_set);
    for (const bool reversed : {false, true}) {
      traverse(
          reversed, [](size_t) { return false; },
          [&](size_t i) { return !white_set[i] && !black_set[i] && in(i, {clear}) && allowed(i); },
          white_set);
    }
    return white_set;
  }

 private:
  using Test = std::function<bool(size_t)>;
  size_t size() const { return graph_.nodes.size(); }

  /// Nodes before (or after) one; size() stands for what comes from outside.
  std::vector<size_t> neighbours(size_t node, bool before) const {
    std::vector<size_t> found;
    if (before) {
      for (const auto& operand : graph_.nodes[node].operands)
        found.push_back(graph_.values[operand.value].producer.value_or(size()));
      return found;
    }
    for (size_t i = 0; i < size(); ++i) {
      const auto all = neighbours(i, true);
      if (std::count(all.begin(), all.end(), node) != 0) found.push_back(i);
    }
    return found;
  }

  void traverse(bool reversed, const Test& starts, const Test& may, Low& handled) const {
    for (size_t k = 0; k < size(); ++k) {
      const auto i = reversed ? size() - 1 - k : k;
      const auto fathers = neighbours(i, !reversed);
      const bool one =
          fathers.empty() || std::any_of(fathers.begin(), fathers.end(),
                                         [&](size_t f) { return f < size() && handled[f]; });
      if (starts(i) || (may(i) && one)) handled[i] = true;
    }
  }

  const OpGraph& graph_;
};

/// Up to 30 ops of random colors over random values before them.
OpGraph random_graph(std::mt19937& random, bool shares_memory) {
  const auto below = [&](size_t n) { return random() % n; };
  constexpr std::array colors{white, gray, gray, black, clear, clear, unlisted};
  GraphWriter g;
  for (size_t i = 0; i < 3; ++i) g.outside("x" + std::to_string(i), i == 2 ? "int64" : "float32");
  const auto count = 1 + below(30);
  for (size_t i = 0; i < count; ++i) {
    std::vector<size_t> operands;
    for (size_t k = below(4); k > 0; --k) {
      const auto far = std::min<size_t>(g.graph.values.size(), 5);
      operands.push_back(g.graph.values.size() - 1 - below(far));
    }
    g.op("op" + std::to_string(below(5)), colors[below(colors.size())], operands,
         below(8) == 0 ? "int64" : "float32");
    auto& node = g.graph.nodes.back();
    for (auto& operand : node.operands) operand.stays_float32 = below(6) == 0;
    if (!shares_memory) continue;
    if (i > 0 && below(5) == 0) node.with = below(i);
    node.fixed = below(20) == 0;
    node.module = below(2) == 0 ? "net." + std::to_string(below(3)) : "";
  }
  return std::move(g.graph);
}

TEST(ColorGraph, RandomGraphsAreColoredAsOneFlowSays) {
  std::mt19937 random(3);
  int64_t low = 0, gray_low = 0, gray_high = 0;
  for (int round = 0; round < 2000; ++round) {
    const auto graph = random_graph(random, /*shares_memory=*/false);
    const auto got = low_nodes(graph);
    ASSERT_EQ(got, InOneFlowsWords(graph).low()) << "round " << round;
    for (size_t i = 0; i < got.size(); ++i) {
      low += got[i];
      gray_low += got[i] && graph.nodes[i].color == gray;
      gray_high += !got[i] && graph.nodes[i].color == gray;
    }
  }
  EXPECT_GT(low, 5000);
  EXPECT_GT(gray_low, 500);
  EXPECT_GT(gray_high, 500);
}

/// The dtype each operand arrives in, by the plan's casts.
void expect_right_casts(const PrecisionPlan& plan) {
  const auto& graph = plan.graph();
  std::map<size_t, halfstep::PlanCast> casts;
  for (const auto& cast : plan.casts())
    EXPECT_TRUE(casts.emplace(cast.value, cast).second) << "a value is cast twice";
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    for (const auto& operand : graph.nodes[i].operands) {
      const auto& value = graph.values[operand.value];
      const auto found = casts.find(operand.value);
      const bool is_cast = found != casts.end() &&
                           std::count(found->second.nodes.begin(), found->second.nodes.end(), i);
      const bool made_low = value.producer && plan.is_low(*value.producer);
      const bool wants_low = plan.is_low(i) && !operand.stays_float32;
      if (value.type != "float32") {
        EXPECT_EQ(found, casts.end());
      } else if (made_low != wants_low) {
        EXPECT_TRUE(is_cast);
        EXPECT_EQ(found->second.dtype, wants_low ? plan.dtype() : c10::kFloat);
      }
    }
  }
}

TEST(ColorGraph, RandomPlansKeepTheirPromises) {
  std::mt19937 random(4);
  int64_t casts = 0;
  for (int round = 0; round < 500; ++round) {
    const PrecisionPlan plan(random_graph(random, /*shares_memory=*/true), c10::kBFloat16);
    const auto& nodes = plan.nodes();
    for (size_t i = 0; i < nodes.size(); ++i) {
      const bool strict = nodes[i].color == black || nodes[i].color == unlisted || nodes[i].fixed;
      EXPECT_FALSE(strict && plan.is_low(i)) << plan;
      EXPECT_TRUE(!nodes[i].with || plan.is_low(i) == plan.is_low(*nodes[i].with)) << plan;
    }
    expect_right_casts(plan);
    casts += int64_t(plan.casts().size());
    EXPECT_EQ(PrecisionPlan::parse(plan.to_string()), plan) << plan;
  }
  EXPECT_GT(casts, 500);
}

}  // namespace
